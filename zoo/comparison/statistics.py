"""Spread over seeds, and how sure a difference between two models is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

RESAMPLES = 2000


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (over n − 1); no deviation for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float | int] | None:
    """Mean of second − first over the cases that both have, with a 95 % interval by bootstrap over the cases.

    first, second: score by case, seeds averaged. None for fewer than two cases in common.
    """
    import numpy

    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        return None
    changes = numpy.array([second[case] - first[case] for case in common])
    draws = numpy.random.default_rng(0).integers(0, len(changes), (RESAMPLES, len(changes)))
    low, high = numpy.quantile(changes[draws].mean(1), [0.025, 0.975])
    return {"change": float(changes.mean()), "low": float(low), "high": float(high), "n": len(common)}


def averaged(by_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over seeds of each case that all of them have."""
    if not by_seed:
        return {}
    common = set.intersection(*(set(scores) for scores in by_seed))
    return {case: sum(scores[case] for scores in by_seed) / len(by_seed) for case in sorted(common)}
