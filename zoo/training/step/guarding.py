"""What the guards of a run object to in an optimizer step, and what follows: a skip, the end, or a rollback.

In a rollback the run becomes what it was at a checkpoint, and goes on past the steps since then. PaLM
(arXiv:2204.02311, section 5.1) goes back to a checkpoint before a spike of the loss and leaves out the batches seen
since: the same batches made no spike with other weights. The steps since the checkpoint count as skipped. Their number,
the learning-rate schedule and the place in the data stay; weights, optimizer, random numbers and all other states
become those of the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from zoo.errors import TrainingFailed
from zoo.guards import Action
from zoo.guards.bundled import BROKEN
from zoo.guards.watch import COUNTED, Guards, Objection
from zoo.libraries.sharding import fill, load_optimizer_state, own_part
from zoo.processes import from_all, gathered, my_place
from zoo.randomness import restore_rng
from zoo.values.loss import Loss
from zoo.values.types import Batch

BACK_TO = "guards/back_to"
"""The metric that gives the step whose checkpoint a rollback restored."""
SHOWN = 20
"""Rows that a message names; all of them are in a file."""
ENDS = {"warn": "", "skip": " The step is skipped.", "stop": ""}
Part = tuple[Batch, Loss]
"""A micro-batch, and what the algorithm's loss gave for it, without its gradient."""


class Keeper(Protocol):
    """The run folder, as far as guards use it."""

    def keep(self, step: int, objections: Sequence[Objection], parts: Sequence[Part], back_to: int | None) -> None:
        """Write the rows of a step down. back_to: the step of the checkpoint that is restored."""
        ...

    def good(self, step: int) -> dict[str, Any] | None:
        """The checkpoint that a rollback in the step after `step` goes back to; None if there is none."""
        ...


class Guarding:
    """Asks the guards about each step of a module, and does what they say."""

    def __init__(self, module: Any, guards: Guards, keeper: Keeper | None):
        self._module, self.guards, self.keeper = module, guards, keeper
        self.broken = False
        """Whether the weights were found to be no finite numbers."""
        self.doubted = False
        """Whether the last step had no finite loss or gradient, so that the weights may be at fault."""
        self._until = 0

    def passes_over(self, steps: int) -> bool:
        """Whether the step after `steps` belongs to a rollout of which nothing more is taken."""
        return steps < self._until

    def verdict(self, metrics: dict[str, float]) -> tuple[dict[str, float], Action]:
        """The metrics with what the guards object to, and the strongest action, "warn" for nothing as well.

        A rollback has happened by then. Raises TrainingFailed where the run cannot go on.
        """
        step = self._module.steps_done + 1
        numbers = [value for name, value in metrics.items() if name == "loss" or name.endswith("grad_norm")]
        self.doubted = "loss" in metrics and not all(map(math.isfinite, numbers))
        if self.broken:
            metrics = {**metrics, BROKEN: 0.0}
        # All processes decide by the numbers of the first one.
        objections = self.guards.look(step, gathered(metrics)[0] if self.guards.chosen else metrics)
        metrics = {**metrics, **{f"{COUNTED}{one.guard}/{one.action}": 1.0 for one in objections}}
        action: Action = objections[0].action if objections else "warn"
        if action == "rollback":
            metrics[BACK_TO] = float(self._roll_back(objections))
        else:
            self._tell(objections)
        if action == "stop" or action == "skip" and not self.weights_are_finite():
            raise self._failure(objections[0])
        if action == "rollback" or any(one.of_rollout for one in objections if one.action == action == "skip"):
            self._until = self._end_of_rollout
        return metrics, action

    @property
    def _end_of_rollout(self) -> int:
        """The steps that are done when the present rollout has served; in a run on data, those after this step."""
        module = self._module
        each = module.core.minibatches * module.core.rollout_epochs if module.rollouts is not None else 1
        return (module.steps_done // each + 1) * each

    def _tell(self, objections: Sequence[Objection], back_to: int | None = None) -> None:
        """Print what is new, and keep the rows of the step."""
        told, step = [one for one in objections if self.guards.is_news(one)], self._module.steps_done + 1
        for one in told:
            why = f"{one.why[:1].upper()}{one.why[1:]}."
            end = ENDS.get(one.action, f" Back to step {back_to}; the steps since then are left out.")
            hint = f" {one.hint}" if one.action == "warn" else ""
            self._module.warn(f"Step {step}{self._rows(one)}: {why}{end}{hint}")
        if told and self.keeper is not None:
            self.keeper.keep(step, told, self._module.parts, back_to)

    def _failure(self, first: Objection) -> TrainingFailed:
        if first.action == "skip":
            return self._broken_weights()
        where = f"step {self._module.steps_done + 1}{self._rows(first)}"
        return TrainingFailed(f"The guard {first.guard} stops the run at {where}: {first.why}.", first.hint)

    def _rows(self, objection: Objection) -> str:
        """The first rows of the step that an objection is about."""
        parts = [] if objection.of_rollout else [part for part, _ in self._module.parts]
        rows = [row for part in parts if "row" in list(part) for row in part["row"].tolist()]
        return f" (rows {', '.join(map(str, rows[:SHOWN]))}{', …' if len(rows) > SHOWN else ''})" if rows else ""

    # -- weights -------------------------------------------------------------------------------------------------

    def weights_are_finite(self) -> bool:
        """Whether every trained weight is a finite number, on every process; if not, the next step is told so."""
        learners = self._module.learners.values()
        mine = all(
            bool(torch.isfinite(own_part(p)).all()) for model in learners for p in model.parameters() if p.requires_grad
        )
        self.broken = not all(from_all(mine))
        return not self.broken

    def refuse_broken(self) -> None:
        """Raises TrainingFailed if the weights were found to be no finite numbers."""
        if self.broken:
            raise self._broken_weights()

    def _broken_weights(self) -> TrainingFailed:
        done = self._module.steps_done
        return TrainingFailed(
            f"The weights are no finite numbers after step {done}, so the run cannot go on from them.",
            "Lower --lr, or use --precision 32-true.",
        )

    # -- rollback ------------------------------------------------------------------------------------------------

    def _roll_back(self, objections: Sequence[Objection]) -> int:
        """Restore the last good checkpoint; returns the number of steps it has done. Raises TrainingFailed."""
        module = self._module
        checkpoint = self.keeper.good(module.steps_done) if self.keeper is not None else None
        if checkpoint is None:
            raise TrainingFailed(
                f"The guard {objections[0].guard} asks for a rollback at step {module.steps_done + 1}, and there is no "
                f"good checkpoint: {objections[0].why}.", objections[0].hint,
            )  # fmt: skip
        state = checkpoint["zoo"]
        self._tell(objections, state["steps_done"])
        fill(module, checkpoint["state_dict"])
        load_optimizer_state(module.optimizers(use_pl_optimizer=False), checkpoint["optimizer_states"][0])
        module.algorithm.load_state(state["algorithm"])
        if module.rollouts is not None:
            module.rollouts.load_state(state["rollouts"])
        self.guards.go_back(state["guards"]["guards"])
        restore_rng(state["processes"][my_place()[0]]["rng"])
        module.skipped_steps = state["skipped_steps"] + module.steps_done + 1 - state["steps_done"]
        self.broken = False
        self._lower_rate()
        return state["steps_done"]

    def _lower_rate(self) -> None:
        """Lower the learning rate from the next step on, once for each rollback of the run."""
        schedule: Any = self._module.lr_schedulers()
        lowered = self._module.core.rollback_lr**self.guards.rollbacks
        schedule.base_lrs = [group["initial_lr"] * lowered for group in schedule.optimizer.param_groups]

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The state that a resume restores."""
        return {"guards": self.guards.state(), "until": self._until}

    def load_state(self, state: dict[str, Any]) -> None:
        self.guards.load_state(state["guards"])
        self._until = state["until"]
