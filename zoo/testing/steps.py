"""One optimizer step in parts, as the checks of the conformance suite compare it.

A check compares two ways to compute a step, so the step is implemented here again, without Lightning: numerators and
denominators of all parts are summed, and gradients are divided at the end. The step of a run is in zoo.training.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.errors import PluginError
from zoo.models.roles import Models
from zoo.training.step.hooks import check_loss, measurements
from zoo.training.step.sums import Sums
from zoo.values.types import Batch, Loss, metric_sums

LOSS = "the loss itself"


class Failed(Exception):
    """The algorithm fails a check; the message says what is wrong and with which options."""


class NotApplicable(Exception):
    """The check does not apply to this algorithm; the message says why."""


def reloaded(state: Any) -> Any:
    """A state after it was written and read. Raises Failed for what would need code to be unpickled."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:
        hint = "use tensors, numbers, texts, lists and dicts"
        raise Failed(f"A checkpoint cannot hold its state, which is {state!r:.200}: {hint}.") from error


@dataclass
class Outcome:
    """One optimizer step: its loss and metrics as means, gradients by name of the weight, states after it."""

    loss: float
    metrics: dict[str, float]
    gradients: dict[str, Tensor]
    states: list[dict[str, Any]]
    trains: tuple[str, ...] = ("policy",)
    """The roles that the step moves."""

    @property
    def finite(self) -> bool:
        """Whether the loss and all gradients are finite."""
        return math.isfinite(self.loss) and all(bool(gradient.isfinite().all()) for gradient in self.gradients.values())


@dataclass
class Stage:
    """One process's view of a step: an algorithm of its own, the models, the options."""

    algorithm: Algorithm
    hook: Any
    models: Models
    config: Any
    policy: Any
    precision: str = "32-true"
    critic: Any = None
    """The trained module of the critic, if there is one."""
    start: bool = False
    """Whether the policy equals its reference, and generated the answers that it learns from."""
    number: int = 0
    """Finished optimizer steps."""

    def beside(self, cls: type[Algorithm]) -> Stage:
        """Another process on the same weights."""
        algorithm = cls()
        models = Models(**self.models._roles)
        return replace(self, algorithm=algorithm, hook=hooks(algorithm), models=models, number=0)

    def weights(self) -> list[tuple[str, Tensor]]:
        """All trained weights, by name; a critic's names start with `critic.`."""
        own = list(self.policy.named_parameters())
        return own + [(f"critic.{name}", p) for name, p in (self.critic.named_parameters() if self.critic else ())]

    @property
    def learners(self) -> list[str]:
        """The roles that are trained."""
        return ["policy", *(["critic"] if self.critic else [])]

    def wrap(self, **wrappers: Any) -> None:
        """Replace roles by `wrapper(role)`."""
        roles = {name: wrappers.get(name, lambda role: role)(role) for name, role in self.models._roles.items()}
        before, self.models = self.models, Models(**roles)
        self.models.used, self.models.training = before.used, before.training

    def lay_out(self, layout: str) -> None:
        """Use this row layout from now on; prompts are shared whenever possible."""
        for name, role in self.models._roles.items():
            if name != "judge":
                role.layout, role.balance = layout, 10**9


def hooks(algorithm: Algorithm) -> Any:
    """The algorithm's own hooks, without other installed plugins, which may wrap them."""
    plugins = registry.PluginManager()
    plugins.register(algorithm, "algorithm")
    return plugins.hook


def step(parts: Sequence[tuple[Stage, Sequence[Batch]]]) -> Outcome:
    """Forward and backward of one optimizer step: for every process its stage and its micro-batches."""
    stages = [stage for stage, _ in parts]
    weights = stages[0].weights()
    for _, parameter in weights:
        parameter.grad = None
    sums = Sums()
    moved: set[tuple[str, ...]] = set()
    with autocast(stages[0].precision):
        measure(parts)
        for stage, batches in parts:
            for batch in batches:
                loss = loss_of(stage, batch)
                if not loss.values.requires_grad:
                    raise Failed("The loss carries no gradient: it must not be detached or computed under no_grad.")
                # Under a name that no metric can have, so that it cannot be confused with a metric called loss.
                sums.add({LOSS: (loss.numerator, loss.denominator), **metric_sums(loss.metrics)})
                moved.add(tuple(stage.learners) if loss.trains is None else loss.trains)
                loss.numerator.backward()
    if len(moved) > 1:
        raise Failed("The micro-batches of one step name different roles in `trains`.")
    for stage in stages:
        stage.number += 1
    count = sums.count(LOSS) or 1.0
    roles = moved.pop()
    gradients = {name: p.grad / count for name, p in weights if p.grad is not None and role_of(name) in roles}
    means = sums.means()
    states = [copy.deepcopy(stage.algorithm.state()) for stage in stages]
    return Outcome(means.pop(LOSS, 0.0), means, gradients, states, roles)


def role_of(weight: str) -> str:
    """The role of a weight of `Stage.weights`."""
    return "critic" if weight.startswith("critic.") else "policy"


def loss_of(stage: Stage, batch: Batch) -> Loss:
    """The algorithm's `loss` of a micro-batch, checked."""
    loss = stage.hook.loss(batch=batch, models=stage.models, config=stage.config, step=stage.number)
    try:
        return check_loss(loss, batch, stage.learners, stage.algorithm)
    except PluginError as error:
        raise Failed(f"{error.message} {error.hint}".strip()) from error


@torch.no_grad()
def measure(parts: Sequence[tuple[Stage, Sequence[Batch]]]) -> None:
    """The sums of `measure` over all processes, set on every micro-batch."""
    pairs, totals = Sums(), Sums()
    for stage, batches in parts:
        for batch in batches:
            returned = stage.hook.measure(batch=batch, models=stage.models, config=stage.config)
            measured_here = measurements(returned, stage.algorithm)
            for name, value in measured_here.items():
                total, count = value if isinstance(value, tuple) else (value, 0)
                sums = pairs if isinstance(value, tuple) else totals
                sums.add({name: (torch.as_tensor(total), torch.as_tensor(count))})
    means = {name: pairs.means().get(name, 0.0) for name in pairs.names}
    measured = {**means, **{name: totals.total(name) for name in totals.names}}
    for _, batches in parts:
        for batch in batches:
            batch.measured = {name: torch.tensor(value, dtype=torch.float32) for name, value in measured.items()}


def adjust(stage: Stage, optimizer: torch.optim.Optimizer, outcome: Outcome) -> None:
    """The optimizer's step by the gradients of an outcome."""
    for name, parameter in stage.weights():
        parameter.grad = outcome.gradients.get(name)
    optimizer.step()


def with_options(options: Mapping[str, Any]) -> str:
    """The options of a variant, for a message; empty for the defaults."""
    return f" (with {', '.join(f'{name}={value}' for name, value in options.items())})" if options else ""


def autocast(precision: str) -> Any:
    """The arithmetic of the precision, on the CPU."""
    if precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)
