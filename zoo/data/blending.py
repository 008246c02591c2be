"""Orders of examples from several sources: which record is the n-th example of a run that mixes them.

The n-th example depends on n, the shares and the seed alone, and is found without those before it. After any number of
examples each source has given its share, to about one example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Protocol


class Ordering(Protocol):
    """Which record is the n-th example of a run."""

    def at(self, n: int) -> int:
        """The index of the record, from 0."""


class Places:
    """The records of one part, which are at some places among all, in an order of their own."""

    def __init__(self, label: str, places: Sequence[int], order: Ordering):
        self.label, self.places, self.order = label, places, order

    def at(self, n: int) -> int:
        return int(self.places[self.order.at(n)])

    def taken(self, n: int) -> Iterator[tuple[Places, int]]:
        """How many of the first n examples are of each part."""
        yield self, n


class Blend:
    """Two orders in one: from example `begin` on, `share` of the examples come from the second.

    Each goes on where it was. late: the second gives each of its examples as late as its share allows.
    """

    def __init__(
        self, first: Places | Blend, second: Places | Blend, share: Fraction, begin: int = 0, late: bool = False
    ):
        self.first, self.second, self.begin = first, second, begin
        self._numerator, self._denominator = 2 * share.numerator, 2 * share.denominator
        self._lead = 0 if late else share.denominator

    def at(self, n: int) -> int:
        seconds = self._seconds(n)
        return self.second.at(seconds) if self._seconds(n + 1) > seconds else self.first.at(n - seconds)

    def taken(self, n: int) -> Iterator[tuple[Places, int]]:
        """How many of the first n examples are of each part."""
        seconds = self._seconds(n)
        yield from self.first.taken(n - seconds)
        yield from self.second.taken(seconds)

    def _seconds(self, n: int) -> int:
        """How many of the first n examples come from the second order."""
        return (max(0, n - self.begin) * self._numerator + self._lead) // self._denominator


def blended(orders: Sequence[tuple[Fraction, Places | Blend]]) -> Places | Blend:
    """Several orders in one, with shares in proportion to their weights. Raises ValueError without any."""
    if not orders:
        raise ValueError("There is nothing to blend.")
    # The largest first: what is rounded there is small for the others.
    (_, first), *rest = sorted(orders, key=lambda one: -one[0])
    if not rest:
        return first
    whole = sum(weight for weight, _ in orders)
    return Blend(first, blended(rest), Fraction(sum(weight for weight, _ in rest)) / whole)
