"""Contamination: finds rows that contain text of an evaluation set, by the n-grams of words that both contain.

As in GPT-3 (arXiv:2005.14165, appendix C): words in lower case without punctuation, 13 of them in a row; an item of
fewer words is searched for as a whole if it has at least 8. One difference is on purpose: GPT-3 ignored n-grams that
occur more than 10 times in the training data, and so also ignored a question that leaked 11 times. This module ignores
n-grams that occur in more than 10 *evaluation items*: the wording of a template does, a question does not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy

from zoo.data.curation.words import Grams, grams_of, words

SHORTEST = 8
"""Words in the shortest text that is searched for."""
COMMON = 10


@dataclass
class Item:
    """A row of an evaluation set: its source, its row number, and the number of data rows that contain it."""

    source: str
    row: int
    grams: int = 0
    """Different n-grams to search for; 0 for an item that is too short or that has only common n-grams."""
    found: int = 0


@dataclass(frozen=True)
class Match:
    """What a row shares with one evaluation item."""

    item: Item
    grams: int
    """Different n-grams of the item that occur in the row."""
    words: str
    """The first n-gram in common."""

    @property
    def share(self) -> float:
        return self.grams / self.item.grams


@dataclass
class Evaluation:
    """The n-grams of evaluation sets. Add all items, then search rows for them.

    length: n; common: n-grams that occur in more different texts of the items than this are ignored; overlap: the share
    of an item's n-grams that must occur in a row (0: one n-gram is enough).
    """

    length: int = 13
    shortest: int = SHORTEST
    common: int = COMMON
    overlap: float = 0.0
    items: list[Item] = field(default_factory=list)
    ignored: int = 0
    """N-grams that were too common to search for."""

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
            text_words = words(text)
            length = min(self.length, len(text_words))
            if length < self.shortest:
                continue
            grams = set(self._grams.of(text_words, length).tolist())
            for gram in grams:
                self._owners[length][gram].add(number)
            # The same question in several rows is one text, not a template.
            if (key := tuple(text_words)) not in self._seen:
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
        """The items that a row contains, the largest share first; counts the row for each of them."""
        if self._sorted is None:
            self._sorted = self._prepare()
        shared: dict[int, set[tuple[int, int]]] = defaultdict(set)
        places: dict[int, str] = {}
        for text in texts:
            text_words = words(text)
            numbers = self._grams.numbers(text_words)
            for length, sorted_grams in self._sorted.items():
                grams = grams_of(numbers, length)
                for place in numpy.flatnonzero(_is_in(grams, sorted_grams)).tolist():
                    gram = int(grams[place])
                    for number in self._owners[length][gram]:
                        shared[number].add((length, gram))
                        places.setdefault(number, " ".join(text_words[place : place + length]))
        matches = [Match(self.items[number], len(grams), places[number]) for number, grams in shared.items()]
        matches = [match for match in matches if match.share >= self.overlap]
        for match in matches:
            match.item.found += 1
        return sorted(matches, key=lambda match: (-match.share, match.item.source, match.item.row))

    def affected(self, source: str) -> dict[str, Any]:
        """How much of one evaluation set was found, item by item, as JSON types."""
        own = [item for item in self.items if item.source == source]
        checked = sum(item.grams > 0 for item in own)
        counts = {item.row: item.found for item in own if item.found}
        return {
            "source": source,
            "items": len(own),
            "checked": checked,
            "too_short_or_common": len(own) - checked,
            "found": len(counts),
            "share": len(counts) / checked if checked else None,
            "found_rows": counts,
        }

    @property
    def unchecked(self) -> list[Item]:
        """Items without an n-gram to search for."""
        if self._sorted is None:
            self._sorted = self._prepare()
        return [item for item in self.items if not item.grams]


def _is_in(values: Any, sorted_grams: Any) -> Any:
    """Which of the values occur in `sorted_grams`, [V] bool."""
    if not len(sorted_grams) or not len(values):
        return numpy.zeros(len(values), bool)
    places = numpy.searchsorted(sorted_grams, values).clip(max=len(sorted_grams) - 1)
    return sorted_grams[places] == values
