"""The stateful loader of a run: one item is one optimizer step's batch, for this process.

The order depends on the seed and nothing else. A step's examples are dealt to the processes by length, so that all
have about the same work; which examples a step holds does not depend on how many processes there are (but for a
last step with fewer examples than processes, which joins the one before it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.types import Answer, Answers, Batch


class StepLoader:
    """Yields `Batch`es from step `position` on; `state_dict` remembers where it stands.

    epochs may be a fraction; every record is seen exactly as often as they say, and only the last batch of the run
    may be smaller than batch_size (never smaller than the number of processes).
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
    ):
        self.records, self.collate = records, collate
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.processes = rank, processes
        self.examples = max(1, round(epochs * len(records)))
        if self.examples < processes or not records:
            raise ZooError(
                f"{len(records)} records are not enough for {processes} processes: each needs one in every step.",
                "Use fewer --devices or more data.",
            )
        steps = math.ceil(self.examples / batch_size)
        if steps > 1 and self.examples - (steps - 1) * batch_size < processes:
            steps -= 1
        self.steps = steps if max_steps is None else min(steps, max_steps)
        self._all_steps = steps
        self.position = 0
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        while self.position < self.steps:
            step = self.position
            self.position += 1
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """This process's share of one step.

        The whole step is collated before it is dealt out, so that what a collation computes across examples is the
        same on any number of processes.
        """
        batch = self.collate([self.records[i] for i in self.indices(step)])
        return share_of(batch, self.rank, self.processes)

    def indices(self, step: int) -> list[int]:
        """The records of one step, over all processes, each epoch in an order of its own."""
        start = step * self.batch_size
        end = self.examples if step == self._all_steps - 1 else start + self.batch_size
        size = len(self.records)
        return [self._order(n // size)[n % size] for n in range(start, end)]

    def epoch(self, step: int) -> float:
        """How many passes over the data are done after `step` steps."""
        return min(step * self.batch_size, self.examples) / len(self.records)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1}
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            size = len(self.records)
            order = torch.randperm(size, generator=generator) if self.shuffle else torch.arange(size)
            self._orders[epoch] = order.tolist()
        return self._orders[epoch]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def share_of(batch: Batch, rank: int, processes: int) -> Batch:
    """One process's examples of a step, in the order of their length, so that all have about the same work."""
    if processes == 1:
        return batch
    sizes = [record_tokens(example) for example in examples_of(batch)]
    ordered = sorted(range(len(batch)), key=lambda i: (-sizes[i], i))
    # Back and forth over the processes (0 1 1 0 0 1 …), so that none gets the longer of every two.
    period = 2 * processes
    return batch.select([
        example
        for place, example in enumerate(ordered)
        if min(place % period, period - 1 - place % period) == rank
    ])  # fmt: skip


def answers_among(values: Iterable[Any]) -> list[Answer]:
    """The answers among the fields of one example, each of which may be an answer or a list of them."""
    found: list[Answer] = []
    for value in values:
        found += [one for one in (value if isinstance(value, (list, Answers)) else [value]) if isinstance(one, Answer)]
    return found


def record_tokens(record: Mapping[str, Any]) -> int:
    """Tokens of an encoded record or of one example of a batch, a shared prompt counted once."""
    answers = answers_among(record.values())
    return sum(len(a.completion) for a in answers) + max((len(a.prompt) for a in answers), default=0)


def examples_of(batch: Batch) -> list[dict[str, Any]]:
    """The fields of each example."""
    names = [name for name in batch if not isinstance(batch[name], (Tensor, Batch))]
    return [{name: batch[name][i] for name in names} for i in range(len(batch))]


def micro_batches(batch: Batch, micro_tokens: int) -> list[Batch]:
    """Cut a step's batch so that each part has at most `micro_tokens` tokens (or one example).

    Examples of one prompt stay side by side, and short ones come together, so that rows fill and prompts are shared.
    """
    examples = examples_of(batch)
    sizes = [record_tokens(example) for example in examples]
    if not any(sizes):
        return [batch]
    groups: dict[bytes, list[int]] = {}
    for i, example in enumerate(examples):
        answers = answers_among(example.values())
        groups.setdefault(answers[0].prompt.numpy(force=True).tobytes() if answers else b"", []).append(i)
    ordered = sorted(groups.values(), key=lambda members: (max(sizes[i] for i in members), members[0]))
    parts: list[list[int]] = [[]]
    tokens = 0
    for members in ordered:
        whole = sum(sizes[i] for i in members)
        for i in members:
            # A group that fits into one part is not torn: its answers share the prompt's compute.
            torn = i == members[0] and tokens + whole > micro_tokens >= whole
            if parts[-1] and (torn or tokens + sizes[i] > micro_tokens):
                parts.append([])
                tokens = 0
            parts[-1].append(i)
            tokens += sizes[i]
    return [batch.select(part) for part in parts]
