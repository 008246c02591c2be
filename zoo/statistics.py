"""Means, their uncertainty, and tests: Student's t, and Holm's correction for several tests at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

SURE = 0.95
"""The level of intervals, unless another one is given."""
MANY = 300
"""From this many degrees of freedom on, Student's t is expanded around the normal distribution."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (over n − 1); None as deviation for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def student(freedom: int, level: float = SURE) -> float:
    """The t at which Student's interval of this level ends: 4.303 for 2 degrees of freedom and 95 %."""
    tail = (1 - level) / 2
    if freedom >= MANY:
        # Abramowitz and Stegun 26.7.5.
        z = NormalDist().inv_cdf(1 - tail)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return high


def student_tail(t: float, freedom: int) -> float:
    """The probability that Student's t is above `t` (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if freedom >= MANY:
        # 26.7.8, the other way round: the normal deviate with the same tail.
        return NormalDist().cdf(-t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom)))
    sine, cosine = t / math.sqrt(freedom + t * t), math.sqrt(freedom / (freedom + t * t))
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    inside = 2 / math.pi * (math.atan2(t, math.sqrt(freedom)) + sine * total) if odd else sine * total
    return (1 - inside) / 2


def holm(chances: Sequence[float]) -> list[float]:
    """p-values that are corrected for their number, in the same order: Holm's step-down procedure, which keeps the
    chance of any false rejection below the level (Scandinavian Journal of Statistics 6, 1979)."""
    corrected, least = [1.0] * len(chances), 0.0
    for rank, i in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        least = max(least, (len(chances) - rank) * chances[i])
        corrected[i] = min(1.0, least)
    return corrected
