"""How the parts of a run's data are mixed: which record is the n-th example, and how often each part is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy

from zoo.data.blending import Blend, Places, blended
from zoo.data.encoding.encode import Encoded
from zoo.data.loader import Order, StepLoader, count_steps
from zoo.data.sources.mixture import Part
from zoo.errors import ZooError
from zoo.optimizers.chosen import decay_share
from zoo.optimizers.schedules import decay_begin
from zoo.options.config import TrainConfig
from zoo.training.step.parts import Parts
from zoo.values.records import JoinedRecords, Record, Records
from zoo.values.types import Batch

NEXT_SEED = 500_009
"""The distance between the seeds of the orders of two parts."""
Collate = Callable[[list[Record]], Batch]


class Seen(NamedTuple):
    """What a run reads of a part."""

    examples: int
    share: float
    """Of the run's examples."""
    times: float
    """How often it reads each record, the mean."""

    def __str__(self) -> str:
        return f"{self.times:.3g} times ({self.examples:,} examples, {self.share:.1%})"


class Mixing:
    """The parts of a run's data with their encoded records, and those of its decay phase."""

    def __init__(
        self, parts: Sequence[Part], encoded: Sequence[Encoded], core: TrainConfig, decay: Mixing | None = None
    ):
        self.parts, self.core, self.decay = list(parts), core, decay
        self.records = JoinedRecords([of_part.records for of_part in encoded])
        self.tokens = [Fraction(of_part.as_json()["tokens"], len(of_part)) for of_part in encoded]
        """Tokens of a record of each part, the mean."""

    @property
    def labels(self) -> Parts:
        """The parts by the rows of their records, those of the decay phase behind the others."""
        names, before = [part.label for part in self.parts], self.records.before
        if self.decay is None:
            return Parts(names, before)
        last = JoinedRecords([self.records, self.decay.records]).before[1]
        later = [last + of_part for of_part in self.decay.records.before]
        return Parts([*names, *(part.label for part in self.decay.parts)], [*before, *later])

    def loader(
        self, records: Records, collate: Collate, batch_size: int, max_steps: int | None, rank: int, processes: int
    ) -> StepLoader:
        """The loader of records that were prepared from those of the parts."""
        core, places = self.core, self._places(records)
        size = round(sum(part.repeats * len(of_part) for part, of_part in zip(self.parts, places, strict=True)))
        order = self._blended(places, core.seed)
        if self.decay is not None:
            steps = count_steps(round(core.epochs * size), batch_size, processes)
            begin = decay_begin(min(steps, max_steps or steps), decay_share(core.schedule)) * batch_size
            later = self.decay._later(len(records), core.seed + NEXT_SEED * len(self.parts))
            order = Blend(order, later, Fraction(repr(core.decay_mix)), begin, late=True)
            records = JoinedRecords([records, self.decay.records])
        return StepLoader(
            records, collate, batch_size=batch_size, epochs=core.epochs, max_steps=max_steps, seed=core.seed,
            rank=rank, processes=processes, order=order, size=size,
        )  # fmt: skip

    def seen(self, loader: StepLoader, steps: int) -> dict[str, Seen]:
        """What so many steps of the loader read of each part, by its label."""
        assert isinstance(loader.order, Places | Blend)
        examples = loader.dealt(steps)
        taken = {of_part.label: (of_part, count) for of_part, count in loader.order.taken(examples)}
        parts = [*self.parts, *(self.decay.parts if self.decay else [])]
        ordered = [taken[part.label] for part in parts]
        return {one.label: Seen(count, count / examples, count / len(one.places)) for one, count in ordered}

    def _later(self, behind: int, seed: int) -> Places | Blend:
        """The order of these parts, whose records stand behind so many others."""
        return self._blended([range(behind + one.start, behind + one.stop) for one in self._ranges()], seed)

    def _ranges(self) -> list[range]:
        starts = self.records.starts
        return [range(start, stop) for start, stop in zip(starts, starts[1:], strict=False)]

    def _places(self, records: Records) -> list[Sequence[int]]:
        """The places of each part's records. Raises ZooError for a part of which nothing is left."""
        if records is self.records:
            return [*self._ranges()]
        owners = self.labels.owners(records.column("row"))
        places: list[Any] = [numpy.flatnonzero(owners == number) for number in range(len(self.parts))]
        for part, of_part in zip(self.parts, places, strict=True):
            if not len(of_part):
                raise ZooError(f"Preparing the records leaves nothing of {part.source}.", "Leave it out of --data.")
        return places

    def _blended(self, places: Sequence[Sequence[int]], seed: int) -> Places | Blend:
        orders = [
            Places(part.label, of_part, Order(len(of_part), seed + NEXT_SEED * number, True))
            for number, (part, of_part) in enumerate(zip(self.parts, places, strict=True))
        ]
        return blended(list(zip(self._weights(places), orders, strict=True)))

    def _weights(self, places: Sequence[Sequence[int]]) -> list[Fraction]:
        """The share of each part in the examples, up to a factor."""
        weights = [part.weight for part in self.parts if part.weight is not None]
        if not weights:
            return [part.repeats * len(of_part) for part, of_part in zip(self.parts, places, strict=True)]
        each = self.tokens if self.core.mix_by == "tokens" else [Fraction(1)] * len(weights)
        return [weight / tokens for weight, tokens in zip(weights, each, strict=True)]
