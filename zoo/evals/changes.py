"""Changes between two scores of the same evaluation, with the 95 % interval of their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from zoo.evals import Score, Z, mean_score, within_0_and_1
from zoo.numbers import around, signed


@dataclass(frozen=True)
class Change:
    """The change of a score. low, high: its 95 % interval, None if unknown.

    n: cases; paired: whether cases are compared one by one, which removes the variance between cases.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    paired: bool

    @property
    def noise(self) -> float | None:
        """The longer of the interval's two sides; None if it has no width: it is unknown, or all cases are equal."""
        if self.low is None or self.high is None or self.low == self.high:
            return None
        return max(self.high - self.value, self.value - self.low)

    @property
    def around(self) -> str:
        """The interval as `± 0.087`; as `[-0.1, +0.9]` where the longer side would leave what shares can change."""
        if self.low is None or self.high is None or self.noise is None:
            return ""
        return around(self.value, self.low, self.high, (-1.0, 1.0), signed)

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def chance(self) -> float | None:
        """The p-value of a true change of 0, two-sided, by the side of the interval that points to 0; None if it is
        unknown."""
        if self.low is None or self.high is None:
            return None
        side = self.value - self.low if self.value > 0 else self.high - self.value
        return 2 * NormalDist().cdf(-abs(self.value) / side * Z) if side > 0 else float(self.value == 0)

    def as_json(self) -> dict[str, float | int | bool | None]:
        return {"change": self.value, "low": self.low, "high": self.high, "n": self.n, "paired": self.paired}


def change(first: Score, second: Score) -> Change:
    """second − first: paired if both have stored the same cases, else as for independent samples."""
    by = second.value - first.value
    if first.cases and len(first.cases) == len(second.cases) and first.about == second.about:
        return _paired(by, first.cases, second.cases)
    n = min(first.n, second.n)
    if _unknown(first) or _unknown(second):
        return Change(by, None, None, n, False)
    # Each side is the root of the sum of two squared sides (doi:10.1002/(SICI)1097-0258(19980430)17:8<873).
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Change(by, by - down, by + up, n, False)


def change_of_values(first: Sequence[float | None], second: Sequence[float | None]) -> Change:
    """The change of the mean of values, paired by row; None for a missing value."""
    return change(mean_score("", first), mean_score("", second))


def averaged(scores: Sequence[Score]) -> Score:
    """The mean over seeds of the values and of each case."""
    k = len(scores)
    value = sum(score.value for score in scores) / k
    down, up = (math.hypot(*(score.value - score.low for score in scores)) / k,
                math.hypot(*(score.high - score.value for score in scores)) / k)  # fmt: skip
    same = len({(len(score.cases), score.about) for score in scores}) == 1
    cases = [sum(case) / k for case in zip(*(score.cases for score in scores), strict=True)] if same else []
    return replace(scores[0], value=value, low=value - down, high=value + up, cases=cases)


def _paired(by: float, first: Sequence[float], second: Sequence[float]) -> Change:
    """The mean of the differences, with Student's t; where cases are right or wrong, with the interval for shares."""
    n = len(first)
    if n < 2:
        return Change(by, None, None, n, True)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    if set(differences) <= {-1.0, 0.0, 1.0} and within_0_and_1([*first, *second]):
        low, high = _of_shares(differences)
        return Change(by, low, high, n, True)
    difference = mean_score("", differences)
    # Cases are stored with a few digits, scores with all digits.
    low, high = by + difference.low - difference.value, by + difference.high - difference.value
    if within_0_and_1([*first, *second]):
        low, high = max(-1.0, low), min(1.0, high)
    return Change(by, low, high, n, True)


def _of_shares(differences: Sequence[float]) -> tuple[float, float]:
    """The interval of Bonett and Price for a difference of paired shares (in doi:10.1002/sim.6148).

    It adds a case that rises and one that falls, so that it has a width even if all differences are equal. The four
    cases that are added to a single share would be too many: they lie far from differences, most of which are 0.
    """
    n = len(differences) + 2
    rising, falling = differences.count(1.0) + 1, differences.count(-1.0) + 1
    middle = (rising - falling) / n
    half = Z * math.sqrt((rising + falling) / n - middle**2) / math.sqrt(n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def _unknown(score: Score) -> bool:
    return score.n < 2 or score.low == score.high
