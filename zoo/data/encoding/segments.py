"""Texts in segments: special tokens, and what stands between them, tokenised once however often it comes.

A fast tokenizer cuts a text at its special tokens before it does anything else. What stands between two of them has the
same ids in every text, so that the prompt of a pair, the system prompt and the frame of a turn need not be tokenised
again. Whether this holds for a tokenizer is tried out when it is loaded; where it does not, a text is one segment.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

from zoo.libraries.tokenizing import cutting_tokens, encodings_of, ids_of

PROBES = (
    "{0}user\nThe answer  is four{1}\n{0}assistant\nFour{1}", "The answer{0} is 44 \t {1}", " {0} a{0}\n\nb {1}c  ",
    "é{0}Über{1} 日本{0}🙂 x=1\n    return x", "\n{0}\n\n", "a{0}{1}", "{1}’s don't 12345{0}.\u3000", "{0}▁a ▁{1}▁",
)  # fmt: skip
"""Texts with two of the tokens that cut them."""


def pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of the texts, the longest first, and nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


Spots = list[tuple[int, int]]


class Located(NamedTuple):
    """The ids of a text, and the number of ids before each place that was asked for; None if a token crosses one."""

    ids: list[int]
    positions: list[int] | None


class Segments:
    """A tokenizer that takes texts apart at its special tokens. split: whether it does where that is proven equal."""

    def __init__(self, tokenizer: Any, split: bool = True):
        self.tokenizer = tokenizer
        self.cutting = cutting_tokens(tokenizer) if split else {}
        """The tokens that cut a text, with their ids; empty if a text is one segment."""
        self.front = ""
        """A special token put before a segment that does not begin its text, where that makes a difference."""
        if self.cutting and not self._is_equal():
            self.front = next(iter(self.cutting))
            if not self._is_equal():
                self.cutting, self.front = {}, ""
        self._pattern = self._splitting()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts, int [T] each, without special tokens of the tokenizer's own."""
        return [located.ids for located in self.located(texts, [()] * len(texts))]

    def located(self, texts: Sequence[str], places: Sequence[Sequence[int]]) -> list[Located]:
        """The ids of texts, and the places in each (characters before its end) as positions between its ids.

        A slow tokenizer cannot say where its tokens are: it takes no places.
        """
        parts = [self._pattern.split(text) for text in texts]
        spots = [_spots(text, part, at) if at else [] for text, part, at in zip(texts, parts, places, strict=True)]
        tables = _Tables(self, parts, spots)
        return [
            Located(tables.ids(part), tables.positions(part, spot)) for part, spot in zip(parts, spots, strict=True)
        ]

    def _splitting(self) -> re.Pattern[str]:
        """Matches the tokens that cut a text, in a group, so that a split keeps them."""
        return re.compile(f"({pattern(self.cutting).pattern})")

    def _is_equal(self) -> bool:
        """Whether the probes have the same ids and positions in segments as they have as whole texts."""
        self._pattern = self._splitting()
        names = list(self.cutting)
        probes = [probe.format(names[0], names[-1]) for probe in PROBES]
        texts = [probe for probe in probes for _ in probe]
        places = [[place] for probe in probes for place in range(len(probe))]
        return self.located(texts, places) == Segments(self.tokenizer, split=False).located(texts, places)


class _Tables:
    """The ids and offsets of the segments of a batch."""

    def __init__(self, segments: Segments, parts: Sequence[Sequence[str]], spots: Sequence[Spots | None]):
        self.segments = segments
        exact = {
            (part[i], i == 0)
            for part, spot in zip(parts, spots, strict=True)
            for i, offset in spot or ()
            if offset and i % 2 == 0
        }
        self._begin: dict[str, list[int]] = {"": []}
        self._follow = {"": [], **{text: [number] for text, number in segments.cutting.items()}}
        self._offsets: dict[tuple[str, bool], list[tuple[int, int]]] = {}
        self._read_exactly(sorted(exact))
        self._read(self._begin, {part[0] for part in parts}, "")
        self._read(self._follow, set(chain.from_iterable(part[2::2] for part in parts)), segments.front)

    def ids(self, parts: Sequence[str]) -> list[int]:
        """The ids of a text in parts."""
        return [*self._begin[parts[0]], *chain.from_iterable([self._follow[part] for part in parts[1:]])]

    def positions(self, parts: Sequence[str], spots: Spots | None) -> list[int] | None:
        """The number of ids before each spot; None if a token crosses one."""
        if not spots:
            return None if spots is None else []
        counts = [len(self._begin[parts[0]]), *(len(self._follow[part]) for part in parts[1:])]
        before = list(accumulate(counts, initial=0))
        inside = [self._inside(parts[i], i, offset) if offset else 0 for i, offset in spots]
        counted = [before[i] + count for (i, _), count in zip(spots, inside, strict=True) if count is not None]
        return counted if len(counted) == len(spots) else None

    def _inside(self, text: str, index: int, offset: int) -> int | None:
        """The number of ids of a part before an offset; None if a token crosses it."""
        if index % 2:
            return None
        offsets = self._offsets[text, index == 0]
        position = bisect_left(offsets, offset, key=lambda span: span[0])
        return None if position and offsets[position - 1][1] > offset else position

    def _read(self, table: dict[str, list[int]], texts: set[str], front: str) -> None:
        missing = [text for text in texts if text not in table]
        ids = ids_of(self.segments.tokenizer, [front + text for text in missing] if front else missing)
        table.update(zip(missing, (own[1:] for own in ids) if front else ids, strict=True))

    def _read_exactly(self, segments: Sequence[tuple[str, bool]]) -> None:
        """Read segments, each with whether it begins a text, of which the place of every token is needed."""
        fronts = ["" if begins else self.segments.front for _, begins in segments]
        texts = [front + text for front, (text, _) in zip(fronts, segments, strict=True)]
        for key, front, encoding in zip(segments, fronts, encodings_of(self.segments.tokenizer, texts), strict=True):
            first = 1 if front else 0
            (self._begin if key[1] else self._follow)[key[0]] = encoding.ids[first:]
            self._offsets[key] = [(start - len(front), end - len(front)) for start, end in encoding.offsets[first:]]


def _spots(text: str, parts: Sequence[str], places: Sequence[int]) -> Spots | None:
    """Places in a text as (index of the part, characters into it).

    None if one is behind a space: a token's offsets may leave out the space before it, so they prove nothing.
    """
    if any(place and text[place - 1] == " " for place in places):
        return None
    starts = list(accumulate(map(len, parts), initial=0))[:-1]
    indices = [bisect_right(starts, place) - 1 for place in places]
    return [(index, place - starts[index]) for index, place in zip(indices, places, strict=True)]
