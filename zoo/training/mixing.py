"""How the parts of a run's data are mixed: which record is the n-th example, and how often each part is seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy

from zoo.data.blending import Blend, Places, blended
from zoo.data.encoding.encode import Encoded
from zoo.data.loader import Order, StepLoader, count_steps
from zoo.data.sources.mixture import Part
from zoo.errors import ZooError
from zoo.numbers import amount
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
        return f"{self.times:.3g} times ({amount(self.examples, 'example')}, {self.share:.1%})"


class Mixing:
    """The parts of a run's data with their encoded records. decay: how many of the last ones its decay phase adds."""

    def __init__(self, parts: Sequence[Part], encoded: Sequence[Encoded], core: TrainConfig, decay: int = 0):
        self.parts, self.core, self.first = list(parts), core, len(parts) - decay
        self.records = JoinedRecords([of_part.records for of_part in encoded])
        self.labels = Parts([part.label for part in parts], self.records.before)
        """The parts by the rows of their records."""
        self.tokens = [Fraction(of_part.as_json()["tokens"], len(of_part)) for of_part in encoded]
        """Tokens of a record of each part, the mean."""

    def loader(
        self, records: Records, collate: Collate, batch_size: int, max_steps: int | None, rank: int, processes: int
    ) -> StepLoader:
        """The loader of records that were prepared from those of the parts."""
        core, places = self.core, self._places(records)
        counts = [part.repeats * len(of_part) for part, of_part in zip(self.parts, places, strict=True)]
        size = round(sum(counts[: self.first]))
        order = self._blended(places, range(self.first))
        if self.first < len(self.parts):
            steps = count_steps(round(core.epochs * size), batch_size, processes)
            begin = decay_begin(min(steps, max_steps or steps), decay_share(core.schedule)) * batch_size
            later = self._blended(places, range(self.first, len(self.parts)))
            order = Blend(order, later, Fraction(repr(core.decay_mix)), begin, late=True)
        return StepLoader(
            records, collate, batch_size=batch_size, epochs=core.epochs, max_steps=max_steps, seed=core.seed,
            rank=rank, processes=processes, order=order, size=size,
        )  # fmt: skip

    def seen(self, loader: StepLoader, steps: int) -> dict[str, Seen]:
        """What so many steps of the loader read of each part, by its label."""
        assert isinstance(loader.order, Places | Blend)
        examples = loader.dealt(steps)
        taken = {of_part.label: (of_part, count) for of_part, count in loader.order.taken(examples)}
        ordered = [taken[part.label] for part in self.parts]
        return {one.label: Seen(count, count / examples, count / len(one.places)) for one, count in ordered}

    def _places(self, records: Records) -> list[Sequence[int]]:
        """The places of each part's records. Raises ZooError for a part of which nothing is left."""
        if records is self.records:
            return [range(*bounds) for bounds in itertools.pairwise(self.records.starts)]
        owners = self.labels.owners(records.column("row"))
        places: list[Any] = [numpy.flatnonzero(owners == number) for number in range(len(self.parts))]
        for part, of_part in zip(self.parts, places, strict=True):
            if not len(of_part):
                raise ZooError(f"Preparing the records leaves nothing of {part.source}.", "Leave it out.")
        return places

    def _blended(self, places: Sequence[Sequence[int]], numbers: range) -> Places | Blend:
        """Some of the parts in one order."""
        orders = [
            Places(
                self.parts[n].label, places[n], Order(len(places[n]), self.core.seed + NEXT_SEED * n, True)
            ) for n in numbers
        ]  # fmt: skip
        return blended(list(zip(self._weights(places, numbers), orders, strict=True)))

    def _weights(self, places: Sequence[Sequence[int]], numbers: range) -> list[Fraction]:
        """The share of each part in the examples of these, up to a factor."""
        weights = [(n, weight) for n in numbers if (weight := self.parts[n].weight) is not None]
        if not weights:
            return [self.parts[n].repeats * len(places[n]) for n in numbers]
        return [weight / self.tokens[n] if self.core.mix_by == "tokens" else weight for n, weight in weights]
