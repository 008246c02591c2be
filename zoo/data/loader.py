"""The stateful loaders of a run: one item is this process's share of one optimizer step's batch.

The order depends only on the seed. A step's examples are dealt to the processes by length, so that all have about
the same work. Which examples a step holds does not depend on the number of processes, with one exception: a last step
with fewer examples than processes joins the step before it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.data.blending import Ordering
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.paths import scratch_array
from zoo.randomness import seeded
from zoo.values.answers import answers_in
from zoo.values.packing import pack
from zoo.values.types import Batch

NOTHING = torch.zeros(0, dtype=torch.long)


class Order:
    """Which record is the n-th example of a run: each epoch has all records, in an order that the seed decides."""

    def __init__(self, size: int, seed: int, shuffle: bool):
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self._epochs: dict[int, numpy.ndarray[Any, Any]] = {}

    def at(self, n: int) -> int:
        return int(self._epoch(n // self.size)[n % self.size]) if self.shuffle else n % self.size

    def _epoch(self, epoch: int) -> numpy.ndarray[Any, Any]:
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = scratch_array(self.size, "int32" if self.size < 2**31 else "int64")
            torch.randperm(self.size, generator=generator, out=torch.from_numpy(order))
            self._epochs[epoch] = order
        return self._epochs[epoch]


class Loader(ABC):
    """Yields a `Batch` for each optimizer step from step `position` on; `state_dict` holds its position.

    collate: makes a batch of the records of a whole step; rank, processes: of those that share it.
    """

    steps: int
    position = 0

    def __init__(
        self, collate: Callable[[list[dict[str, Any]]], Batch], batch_size: int, seed: int, rank: int, processes: int
    ):
        self.collate, self.batch_size, self.seed = collate, batch_size, seed
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        while self.position < self.steps:
            step = self.position
            self.position += 1
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """This process's share of one step.

        The whole step is collated before it is dealt to the processes, so that what a collate hook computes across
        examples is the same on any number of processes. For the same reason its random numbers depend only on the seed
        and the step.
        """
        with seeded(self.seed * 1_000_003 + step):
            collated = self.collate(self.records_of(step))
        return share_of(collated, self.rank, self.processes)

    @abstractmethod
    def records_of(self, step: int) -> list[dict[str, Any]]:
        """The records of one step, over all processes."""

    @abstractmethod
    def count(self, step: int) -> int:
        """The number of examples of one step, over all processes."""

    @abstractmethod
    def epoch(self, step: int) -> float:
        """The number of passes over the data after `step` steps."""

    @property
    @abstractmethod
    def examples(self) -> int:
        """The examples of the run."""

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class StepLoader(Loader):
    """A loader of records that are all there.

    epochs may be a fraction; every record is seen exactly that often, and only the last batch of the run may be smaller
    than batch_size (never smaller than the number of processes). order: which record is the n-th example, where that is
    not each record once an epoch; size: the examples of an epoch.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        collate: Callable[[list[dict[str, Any]]], Batch],
        *,
        batch_size: int,
        epochs: float = 1.0,
        max_steps: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
        order: Ordering | None = None,
        size: int | None = None,
    ):
        super().__init__(collate, batch_size, seed, rank, processes)
        self.records = records
        self.size = len(records) if size is None else size
        self._examples = max(1, round(epochs * self.size))
        if self.examples < processes or not records:
            them = amount(processes, "process", "processes")
            raise ZooError(
                f"{amount(len(records), 'record')} cannot feed {them}: each needs one in every step.",
                "Use fewer --devices or more data.",
            )
        steps = count_steps(self.examples, batch_size, processes)
        self.steps = steps if max_steps is None else min(steps, max_steps)
        self._all_steps = steps
        self.order = order or Order(len(records), seed, shuffle)

    @property
    def examples(self) -> int:
        return self._examples

    def records_of(self, step: int) -> list[dict[str, Any]]:
        return [self.records[i] for i in self.indices(step)]

    def indices(self, step: int) -> list[int]:
        """The indices of the records of one step, over all processes; each epoch has its own order."""
        return [self.order.at(n) for n in self._places(step)]

    def count(self, step: int) -> int:
        return len(self._places(step))

    def _places(self, step: int) -> range:
        """The examples of one step, numbered over the whole run."""
        start = step * self.batch_size
        return range(start, self.examples if step == self._all_steps - 1 else start + self.batch_size)

    def dealt(self, steps: int) -> int:
        """The examples of so many steps, over all processes."""
        return self._places(steps - 1).stop

    def epoch(self, step: int) -> float:
        return min(step * self.batch_size, self.examples) / self.size


def count_steps(examples: int, batch_size: int, processes: int) -> int:
    """The steps of so many examples; a last step with fewer examples than processes joins the one before it."""
    steps = math.ceil(examples / batch_size)
    return steps - 1 if steps > 1 and examples - (steps - 1) * batch_size < processes else steps


def share_of(batch: Batch, rank: int, processes: int) -> Batch:
    """One process's examples of a step, dealt by length so that all processes have about the same work."""
    if processes == 1:
        return batch
    sizes = [record_tokens(example) for example in examples_of(batch)]
    ordered = sorted(range(len(batch)), key=lambda i: (-sizes[i], i))
    # Back and forth over the processes (0 1 1 0 0 1 …), so that no process always gets the longer of two.
    period = 2 * processes
    return batch.select([
        example
        for place, example in enumerate(ordered)
        if min(place % period, period - 1 - place % period) == rank
    ])  # fmt: skip


def record_tokens(record: Mapping[str, Any]) -> int:
    """The tokens of an encoded record or of one example of a batch; a shared prompt counts once."""
    answers = answers_in(record)
    prompt = max((answer.prompt for answer in answers), key=len, default=NOTHING)
    # A text without a prompt of its own that begins with the prompt of the other answers shares that prompt.
    whole = [a for a in answers if not len(a.prompt) and torch.equal(a.completion[: len(prompt)], prompt)]
    return sum(len(a.completion) for a in answers) + len(prompt) * (1 - len(whole))


def examples_of(batch: Batch) -> list[dict[str, Any]]:
    """The fields of each example."""
    names = [name for name in batch if not isinstance(batch[name], (Tensor, Batch))]
    return [{name: batch[name][i] for name in names} for i in range(len(batch))]


def micro_batches(batch: Batch, micro_tokens: int, besides: Collection[str] = ()) -> list[Batch]:
    """Split a step's batch into parts of at most `micro_tokens` tokens (or of one example).

    Examples of one prompt stay together, and so do short examples, so that rows fill up and prompts are shared.
    besides: fields whose tokens do not count, because no gradient keeps them in memory.
    """
    examples = examples_of(batch)
    sizes = [record_tokens({name: example[name] for name in example if name not in besides}) for example in examples]
    if not any(sizes):
        return [batch]
    groups: dict[bytes, list[int]] = {}
    for i, example in enumerate(examples):
        prompt = next((a.prompt for a in answers_in(example) if len(a.prompt)), NOTHING)
        groups.setdefault(prompt.numpy(force=True).tobytes(), []).append(i)
    ordered = sorted(groups.values(), key=lambda members: (max(sizes[i] for i in members), members[0]))
    # The answers of a group share the computation of their prompt.
    return [batch.select(part) for part in pack(ordered, sizes, micro_tokens, keep_groups=True)]
