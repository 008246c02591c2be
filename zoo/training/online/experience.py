"""The stateful loader of an online run: it draws prompts, asks for a rollout, and deals out its experience.

A rollout serves `minibatches` optimizer steps a pass and `passes` passes, each in an order of its own that depends on
the seed alone. In the middle of one the state holds the experience; between two it holds the position only, and a
rollout that was cut off is made again from the same weights and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import Loader, share_of
from zoo.errors import PluginError
from zoo.numbers import amount
from zoo.values.types import Answer, Answers, Batch, Episode, Ragged, TopLogps


class Experience:
    """Yields this process's share of each optimizer step, from step `position` on.

    prompts: deals the records of iteration i as its step i; roll: makes a rollout of them, called with the records,
    the number of the iteration and the steps done.
    """

    def __init__(
        self,
        prompts: Loader,
        roll: Callable[[list[dict[str, Any]], int, int], Batch],
        *,
        minibatches: int,
        passes: int,
        max_steps: int | None = None,
    ):
        self.prompts, self.roll = prompts, roll
        self.minibatches, self.passes = minibatches, passes
        self.each = minibatches * passes
        """Optimizer steps that a rollout serves."""
        self.steps = count_steps(prompts, self.each, max_steps)
        self.position = 0
        self._batch: Batch | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        while self.position < self.steps:
            step = self.position
            if step % self.each == 0 or self._batch is None:
                self._batch = self._rolled(step)
            self.position += 1
            yield self._dealt(self._batch, step)

    def epoch(self, step: int) -> float:
        """How many passes over the prompts are done after `step` steps."""
        return self.prompts.epoch(-(-step // self.each))

    def records_of(self, step: int) -> list[dict[str, Any]]:
        """The records whose prompts the rollout behind a step answers."""
        return self.prompts.records_of(step // self.each)

    def _rolled(self, step: int) -> Batch:
        return self.roll(self.records_of(step), step // self.each, step)

    def _dealt(self, batch: Batch, step: int) -> Batch:
        iteration, part = divmod(step, self.each)
        number, minibatch = divmod(part, self.minibatches)
        generator = torch.Generator().manual_seed((self.prompts.seed * 1_000_003 + iteration) * 10_007 + number)
        order = torch.randperm(len(batch), generator=generator).tolist()
        start, stop = (len(batch) * (minibatch + k) // self.minibatches for k in (0, 1))
        if stop - start < self.prompts.processes:
            raise PluginError(
                f"The rollout gave {amount(len(batch), 'example')}, too few for {amount(self.minibatches, 'step')} on "
                f"{amount(self.prompts.processes, 'process', 'processes')}.",
                "Lower --minibatches, or raise --batch-size.",
            )
        share = share_of(batch.select(order[start:stop]), self.prompts.rank, self.prompts.processes)
        share.on_policy = part == 0
        return share

    def state_dict(self) -> dict[str, Any]:
        inside = self.position % self.each and self._batch is not None
        experience = packed(self._batch) if inside else None
        return {"position": self.position, "experience": experience, "prompts": self.prompts.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        if "prompts" in state:
            self.prompts.load_state_dict(state["prompts"])
        self._batch = None if state["experience"] is None else unpacked(state["experience"])


def count_steps(prompts: Loader, each: int, max_steps: int | None) -> int:
    """The optimizer steps of a run whose rollouts serve `each` of them."""
    every = len(prompts) * each
    return every if max_steps is None else min(every, max_steps)


# -- a batch in types that load without unpickling code ----------------------------------------------------------


def packed(value: Any) -> Any:
    """A batch, or a field of one, as tensors, lists and dicts."""
    if isinstance(value, Batch):
        return {"batch": {name: packed(field) for name, field in value.fields.items()}}
    if isinstance(value, Answers):
        return {"answers": [{**vars(a), "episode": a.episode and vars(a.episode)} for a in value.to("cpu")]}
    if isinstance(value, Ragged):
        return {"ragged": value.to("cpu").rows}
    if isinstance(value, TopLogps):
        return {"top_logps": [value.to("cpu").ids, value.to("cpu").logps]}
    if isinstance(value, Tensor):
        return {"tensor": value.cpu()}
    if isinstance(value, list):
        return {"list": [packed(item) if isinstance(item, Batch | Answers | Ragged) else item for item in value]}
    raise PluginError(f"A rollout's batch cannot be kept in a checkpoint with a field of {type(value).__name__}.")


def unpacked(stored: Any) -> Any:
    """The inverse of `packed`."""
    if not isinstance(stored, dict):
        return stored
    kind, value = next(iter(stored.items()))
    if kind == "batch":
        return Batch(**{name: unpacked(field) for name, field in value.items()})
    if kind == "answers":
        return Answers(
            [Answer(**{**kept, "episode": kept["episode"] and Episode(**kept["episode"])}) for kept in value]
        )
    if kind == "ragged":
        return Ragged(value)
    if kind == "top_logps":
        return TopLogps(*value)
    return [unpacked(item) for item in value] if kind == "list" else value
