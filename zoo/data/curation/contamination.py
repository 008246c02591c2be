"""Contamination: rows that hold texts of an evaluation set, found by n-grams of words that both have.

As in GPT-3 (arXiv:2005.14165, appendix C): words in lower case without punctuation, 13 of them in a row, and an item
of fewer words is looked for as a whole if it has at least 8. What differs on purpose: GPT-3 ignored n-grams that occur
more than 10 times in the training data, which also excuses a question that leaked 11 times; here those are ignored that
stand in more than 10 *evaluation items*, which is what the wording of a template does and a question does not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy

from zoo.data.curation.words import Grams, grams_of, words

SHORTEST = 8
"""Words of the shortest text that is looked for."""
COMMON = 10


@dataclass
class Item:
    """A row of an evaluation set: its source, its row number, and in how many rows of the data it was found."""

    source: str
    row: int
    grams: int = 0
    """Different n-grams to look for; 0 for an item that is too short or of common words only."""
    found: int = 0


@dataclass(frozen=True)
class Match:
    """What a row shares with the evaluation item that it shares most with."""

    item: Item
    grams: int
    """Different n-grams of the item that stand in the row."""
    words: str
    """The first n-gram in common."""

    @property
    def share(self) -> float:
        return self.grams / self.item.grams


@dataclass
class Evaluation:
    """The n-grams of evaluation sets. Add all items, then look for them in rows.

    length: n; common: n-grams that stand in more different texts of the items than this are ignored; overlap: the share
    of an item's n-grams that must stand in a row (0: one is enough).
    """

    length: int = 13
    shortest: int = SHORTEST
    common: int = COMMON
    overlap: float = 0.0
    items: list[Item] = field(default_factory=list)
    ignored: int = 0
    """N-grams that were too common to be looked for."""

    def __post_init__(self) -> None:
        self.shortest = min(self.shortest, self.length)
        self._grams = Grams()
        self._owners: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._texts: dict[int, Counter[int]] = defaultdict(Counter)
        self._seen: set[tuple[str, ...]] = set()
        self._sorted: dict[int, Any] | None = None

    def add(self, source: str, row: int, texts: Iterable[str]) -> None:
        """Add an item with its texts."""
        number = len(self.items)
        self.items.append(Item(source, row))
        for text in texts:
            found = words(text)
            length = min(self.length, len(found))
            if length < self.shortest:
                continue
            grams = set(self._grams.of(found, length).tolist())
            for gram in grams:
                self._owners[length][gram].add(number)
            # The same question in several rows is one text, not a template.
            if (key := tuple(found)) not in self._seen:
                self._seen.add(key)
                self._texts[length].update(grams)

    def _prepare(self) -> dict[int, Any]:
        for length, owners in self._owners.items():
            common = [gram for gram, count in self._texts[length].items() if count > self.common]
            self.ignored += len(common)
            for gram in common:
                del owners[gram]
            for numbers in owners.values():
                for number in numbers:
                    self.items[number].grams += 1
        self._seen.clear()
        self._texts.clear()
        return {
            length: numpy.sort(numpy.fromiter(owners, numpy.uint64, len(owners)))
            for length, owners in self._owners.items()
        }

    def matches(self, texts: Iterable[str]) -> list[Match]:
        """The items that a row holds, the one with the largest share first; counts the row for each of them."""
        if self._sorted is None:
            self._sorted = self._prepare()
        shared: dict[int, set[tuple[int, int]]] = defaultdict(set)
        places: dict[int, str] = {}
        for text in texts:
            found = words(text)
            numbers = self._grams.numbers(found)
            for length, known in self._sorted.items():
                grams = grams_of(numbers, length)
                for place in numpy.flatnonzero(_is_in(grams, known)).tolist():
                    gram = int(grams[place])
                    for number in self._owners[length][gram]:
                        shared[number].add((length, gram))
                        places.setdefault(number, " ".join(found[place : place + length]))
        matches = [Match(self.items[number], len(grams), places[number]) for number, grams in shared.items()]
        matches = [match for match in matches if match.share >= self.overlap]
        for match in matches:
            match.item.found += 1
        return sorted(matches, key=lambda match: (-match.share, match.item.source, match.item.row))

    def affected(self, source: str) -> dict[str, Any]:
        """How much of one evaluation set was found, item by item, as JSON types."""
        own = [item for item in self.items if item.source == source]
        checked = sum(item.grams > 0 for item in own)
        found = {item.row: item.found for item in own if item.found}
        return {
            "source": source,
            "items": len(own),
            "checked": checked,
            "too_short_or_common": len(own) - checked,
            "found": len(found),
            "share": len(found) / checked if checked else None,
            "found_rows": found,
        }

    @property
    def unchecked(self) -> list[Item]:
        """Items without an n-gram to look for."""
        if self._sorted is None:
            self._sorted = self._prepare()
        return [item for item in self.items if not item.grams]


def _is_in(values: Any, known: Any) -> Any:
    """Which of the values are among the sorted known ones, [V] bool."""
    if not len(known) or not len(values):
        return numpy.zeros(len(values), bool)
    places = numpy.searchsorted(known, values).clip(max=len(known) - 1)
    return known[places] == values
