"""The loader of streams: several of them in their shares, and the records of a step drawn from them one by one.

Every process draws all records and takes its share of each step, so that the steps do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from zoo.data.blending import Blend, Places, blended
from zoo.data.encoding.block import Block
from zoo.data.loader import Loader
from zoo.data.streams import Stream, restored, stored
from zoo.errors import ZooError
from zoo.values.records import StreamedRecords
from zoo.values.types import Batch

LEFT_OUT = 100_000
"""Records that a filter may leave out one after another, before there is nothing to train on."""


class StreamPart(NamedTuple):
    """A stream with its name in metrics, and its weight in a mixture."""

    label: str
    weight: Fraction
    stream: Stream


class _Always:
    """An order whose examples are all the same."""

    def __init__(self, number: int):
        self.number = number

    def at(self, n: int) -> int:
        return self.number


class Streams:
    """The streams of a run: which of them gives the n-th example, by their weights alone."""

    def __init__(self, parts: Sequence[StreamPart]):
        self.parts, numbers = list(parts), range(len(parts))
        places = [(part.weight, Places(part.label, numbers, _Always(n))) for n, part in enumerate(self.parts)]
        self.order: Places | Blend = blended(places)
        self.drawn = 0

    def draw(self) -> Block:
        """The next record, as a block of one. Raises ZooError as `Stream.draw` does."""
        part = self.parts[self.order.at(self.drawn)]
        self.drawn += 1
        return part.stream.draw()

    def epoch(self) -> float:
        """Passes over the part that is behind the others."""
        return min(part.stream.epoch() for part in self.parts)

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "parts": [part.stream.state() for part in self.parts]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"]
        for part, of_part in zip(self.parts, state["parts"], strict=True):
            part.stream.load_state(of_part)


class StreamLoader(Loader):
    """Deals what streams give, in their order; steps are read one after another.

    records: what the algorithm made of them, by which each is changed or left out as it comes.
    """

    def __init__(
        self, streams: Streams, records: StreamedRecords, collate: Callable[[list[dict[str, Any]]], Batch], *,
        batch_size: int, steps: int, seed: int = 0, rank: int = 0, processes: int = 1,
    ):  # fmt: skip
        super().__init__(collate, batch_size, seed, rank, processes)
        self.streams, self.records, self.steps = streams, records, steps
        self._step, self._last = -1, list[Block]()

    @property
    def examples(self) -> int:
        return self.steps * self.batch_size

    def count(self, step: int) -> int:
        return self.batch_size

    def epoch(self, step: int) -> float:
        return self.streams.epoch()

    def records_of(self, step: int) -> list[dict[str, Any]]:
        """The records of the next step, or of the last one again."""
        if step == self._step + 1:
            self._step, self._last = step, [self._draw() for _ in range(self.batch_size)]
        if step != self._step:
            raise ValueError(f"A stream cannot give step {step} after step {self._step}.")
        passed = [self.records.passed(block.record(0)) for block in self._last]
        return [record for record in passed if record is not None]

    def _draw(self) -> Block:
        """The next record that no filter leaves out."""
        for _ in range(LEFT_OUT):
            block = self.streams.draw()
            if self.records.passed(block.record(0)) is not None:
                return block
        raise ZooError(
            f"The algorithm's `prepare` leaves out {LEFT_OUT:,} records one after another.", "Check its options."
        )

    def state_dict(self) -> dict[str, Any]:
        state = {"step": self._step, "last": stored(self._last), **self.streams.state()}
        return {**super().state_dict(), "stream": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._step, self._last = state["stream"]["step"], restored(state["stream"]["last"])
        self.streams.load_state(state["stream"])
