"""Verdicts by intervals: what the values of a claim over seeds show, and how many seeds would show more.

A claim consists of one or more quantities (the steps of an order, the stages of a sweep), each with a value in every
seed. A quantity is *reproduced* if the interval of its mean lies on the claim's side of the bound, *contradicted* if it
lies on the other side, and *undecided* if it contains the bound. A claim may be looked at up to five times, after 3, 5,
8, 12 and 20 seeds, so each look uses a wider interval than 95 %: the chance of a false verdict over all looks stays at
that of a single 95 % interval (`benchmarks/verdicts.py` measures it). Several quantities have to hold together, with
Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from zoo.statistics import holm, mean_and_spread, student, student_tail

REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTED = "reproduced", "contradicted", "undecided", "not tested here"
LOOKS = (3, 5, 8, 12, 20)
"""The numbers of seeds after which a claim is judged until it is decided."""
LEVEL = 0.988
"""The level of the interval at each look."""
TAIL = (1 - LEVEL) / 2
NORMAL = NormalDist().inv_cdf(1 - TAIL)
MOST_SEEDS = 1000
"""A claim that needs more than this is said to be out of reach."""


@dataclass(frozen=True)
class Bounds:
    """What a quantity has to be: above `low`, below `high`, or both; or an effect of at least `by`, which is above 0
    for sure (a negative `by`: below 0, and at most `by`)."""

    low: float | None = None
    high: float | None = None
    by: float | None = None


@dataclass(frozen=True)
class Quantity:
    """Something that a claim is about, with its value in every seed.

    case_error: the standard error of the mean that comes from the cases, where all seeds share them (0 if they do not,
    or if it is not known): the spread over seeds does not contain it.
    """

    name: str
    values: Sequence[float]
    bounds: Bounds
    case_error: float = 0.0

    @property
    def mean(self) -> float:
        return mean_and_spread(self.values)[0]

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds; None for one seed."""
        return mean_and_spread(self.values)[1]

    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean at LEVEL: the wider of that over seeds and that over cases. None for one seed."""
        mean, sd = mean_and_spread(self.values)
        if sd is None:
            return None
        over_seeds = student(len(self.values) - 1, LEVEL) * sd / math.sqrt(len(self.values))
        half = max(over_seeds, NORMAL * self.case_error)
        return mean - half, mean + half

    # -- tests -----------------------------------------------------------------------------------------------------

    def held(self) -> float:
        """The p-value against which the claim stands: small if the quantity is where it should be."""
        by, low, high = self.bounds.by, self.bounds.low, self.bounds.high
        if by is not None:
            if self.mean < by if by >= 0 else self.mean > by:
                return 1.0
            return self._above(0.0) if by >= 0 else self._below(0.0)
        return max(
            self._above(low) if low is not None else 0.0,
            self._below(high) if high is not None else 0.0,
        )

    def missed(self) -> float:
        """The p-value of the opposite: small if the quantity is on the wrong side of a bound."""
        by, low, high = self.bounds.by, self.bounds.low, self.bounds.high
        if by is not None:
            return self._below(by) if by >= 0 else self._above(by)
        return min(
            self._below(low) if low is not None else 1.0,
            self._above(high) if high is not None else 1.0,
        )

    def _above(self, bound: float) -> float:
        return self._tail(self.mean - bound)

    def _below(self, bound: float) -> float:
        return self._tail(bound - self.mean)

    def _tail(self, distance: float) -> float:
        """The chance of a mean this far beyond a bound if the true mean is at the bound; 1 for one seed."""
        sd, n = self.sd, len(self.values)
        if sd is None:
            return 1.0
        over_seeds = student_tail(distance / sd * math.sqrt(n), n - 1) if sd > 0 else float(distance <= 0)
        over_cases = NormalDist().cdf(-distance / self.case_error) if self.case_error > 0 else 0.0
        return max(over_seeds, over_cases)

    # -- more seeds ------------------------------------------------------------------------------------------------

    def seeds_to_decide(self) -> int | None:
        """How many seeds would decide it if mean and deviation stayed; None if no number would: the mean is at a bound,
        or the cases are too few."""
        sd, distance = self.sd, self._distance()
        if sd is None or distance <= NORMAL * self.case_error:
            return None
        for n in range(max(2, len(self.values)), MOST_SEEDS + 1):
            if student(n - 1, LEVEL) * sd / math.sqrt(n) < distance:
                return n
        return None

    def _distance(self) -> float:
        """How far the mean is from the bound that the interval has to leave."""
        by, mean = self.bounds.by, self.mean
        if by is not None:
            sign = 1 if by >= 0 else -1
            return sign * mean if sign * mean >= abs(by) else abs(by) - sign * mean
        return min(abs(mean - bound) for bound in (self.bounds.low, self.bounds.high) if bound is not None)


def verdict(quantities: Sequence[Quantity]) -> str:
    """The verdict of a claim: all quantities have to be where they should; one on the wrong side contradicts it."""
    if max(holm([quantity.held() for quantity in quantities])) <= TAIL:
        return REPRODUCED
    return CONTRADICTED if min(holm([quantity.missed() for quantity in quantities])) <= TAIL else UNDECIDED


def deciding(quantities: Sequence[Quantity], found: str) -> Quantity:
    """The quantity that a verdict depends on: the one with the clearest contradiction, or the least clear one."""
    if found == CONTRADICTED:
        return min(quantities, key=Quantity.missed)
    return max(quantities, key=Quantity.held)


def next_look(seeds: int, most: int) -> int | None:
    """The number of seeds of the next look, at most `most`; None if there is none."""
    return next((look for look in LOOKS if seeds < look <= most), None)
