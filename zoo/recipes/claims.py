"""Judges claims: compares what a recipe claims about its stages with the measured values, seed by seed.

A claim holds if it holds in every seed and, if it states a size, also on average over the seeds. There is no
significance test: with three seeds it would suggest more certainty than there is. Each verdict comes with the mean over
the seeds and its 95 % interval (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.comparison.statistics import mean_and_spread
from zoo.evals import student
from zoo.recipes.form import METRIC, Claim

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested here"


class NoValue(Exception):
    """A claim needs a number that was not measured; the message says which and why."""


def split_metric(text: str) -> tuple[str, str]:
    """`tuned(beta=0.1).val/kl` as its stage and the name of the metric. Raises NoValue if it has no stage."""
    match = METRIC.fullmatch(text)
    if match is None:
        raise NoValue(f"'{text}' is not STAGE.METRIC")
    return match[1], match[2]


@dataclass(frozen=True)
class Measured:
    """The measured values by seed, stage and metric. matching: gives the stages that a name stands for, in order."""

    values: Mapping[int, Mapping[str, Mapping[str, float | None]]]
    matching: Callable[[str], Sequence[str]]

    def one(self, stage: str, metric: str, seed: int) -> float:
        """One number. Raises NoValue if it is missing or not a number."""
        value = self.values.get(seed, {}).get(stage, {}).get(metric)
        if value is None or not math.isfinite(value):
            raise NoValue(f"{stage}.{metric} has no value in seed {seed}")
        return float(value)

    def of(self, metric: str, seed: int, at: tuple[str, float] | None = None) -> list[float]:
        """The values of `STAGE.METRIC`, one per stage of a sweep; with `at` (metric, value) one interpolated value."""
        stage, name = split_metric(metric)
        stages = self.matching(stage)
        if not stages:
            raise NoValue(f"there is no stage {stage}")
        values = [self.one(each, name, seed) for each in stages]
        if at is None or not stage.endswith("(*)"):
            return values
        places = [self.one(each, at[0], seed) for each in stages]
        return [interpolate(list(zip(places, values, strict=True)), at[1], f"{stage}.{at[0]}", seed)]


def interpolate(points: Sequence[tuple[float, float]], x: float, name: str = "x", seed: int = 0) -> float:
    """Linear interpolation at x between (x, y) points; points with the same x are averaged.

    Raises NoValue if x is outside the points: nothing is known beyond the sweep.
    """
    by_x: dict[float, list[float]] = {}
    for place, value in points:
        by_x.setdefault(place, []).append(value)
    curve = sorted((place, sum(values) / len(values)) for place, values in by_x.items())
    if not curve[0][0] <= x <= curve[-1][0]:
        raise NoValue(f"the sweep has {name} from {curve[0][0]:.4g} to {curve[-1][0]:.4g} in seed {seed}, not {x:g}")
    for (left, low), (right, high) in zip(curve, curve[1:], strict=False):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return curve[0][1]


# -- one claim ---------------------------------------------------------------------------------------------------


def judge(claim: Claim, measured: Measured, seeds: Sequence[int]) -> dict[str, Any]:
    """A claim with its measured values and verdict, as JSON types.

    values: the number judged in each seed (the value, the rise over the baseline, or the smallest step of an order);
    mean, sd, low, high: over the seeds, the last three None for one seed; verdict; why: the reason for the verdict.
    """
    if claim.untested is not None:
        return untested(claim, claim.untested)
    claimed = {**described(claim), "seeds": list(seeds)}
    try:
        values = [_value(claim, measured, seed) for seed in seeds]
    except NoValue as error:
        return {**claimed, **_EMPTY, "verdict": NOT_TESTED, "why": str(error)}
    mean, sd, low, high = spread(values)
    why = _failure(claim, dict(zip(seeds, values, strict=True)), mean)
    sides = [_sides(claim, measured, seed) for seed in seeds]
    return {
        **claimed, "values": values, "sides": sides, "mean": mean, "sd": sd, "low": low, "high": high,
        "verdict": NOT_REPRODUCED if why else REPRODUCED, "why": why,
    }  # fmt: skip


def untested(claim: Claim, why: str) -> dict[str, Any]:
    """A claim for another scale, which this run cannot test."""
    return {**described(claim), "seeds": [], **_EMPTY, "verdict": NOT_TESTED, "why": why}


_EMPTY: dict[str, Any] = {"values": [], "sides": [], "mean": None, "sd": None, "low": None, "high": None}


def described(claim: Claim) -> dict[str, Any]:
    """The claim in words."""
    return {"says": claim.says, "rule": rule(claim), "metric": subject(claim), "where": claim.where}


def subject(claim: Claim) -> str:
    """The quantity to judge: `after.gold − before.gold`, `a.kl < b.kl`, with the point of the sweep."""
    if claim.untested is not None:
        return ""
    if claim.orders:
        text = " < ".join(claim.orders)
    else:
        text = f"{claim.metric} − {claim.baseline}" if claim.baseline is not None else str(claim.metric)
    at = _at(claim)
    return f"{text} at {at[0]} = {at[1]:g}" if at else text


def rule(claim: Claim) -> str:
    """The rule by which it counts as reproduced."""
    if claim.untested is not None:
        return ""
    if claim.orders:
        return "rises from each to the next in every seed"
    if claim.rises_by is not None:
        if claim.rises_by < 0:
            return f"below 0 in every seed, and {claim.rises_by:g} or less on average"
        return f"above 0 in every seed, and {claim.rises_by:g} or more on average"
    if claim.above is not None:
        return f"above {claim.above:g} in every seed"
    if claim.below is not None:
        return f"below {claim.below:g} in every seed"
    if claim.between is not None:
        return f"between {claim.between[0]:g} and {claim.between[1]:g} in every seed"
    return f"{claim.paper:g} ± {claim.within:g} on average"


def _at(claim: Claim) -> tuple[str, float] | None:
    """The metric over which a sweep is interpolated, without its stage, and the value."""
    if claim.at is None:
        return None
    return split_metric(claim.at.metric)[1], claim.at.value


def _sides(claim: Claim, measured: Measured, seed: int) -> dict[str, list[float]]:
    """The values of one seed, by their names in the claim."""
    names = [*(claim.orders or []), claim.metric, claim.baseline]
    return {name: measured.of(name, seed, _at(claim)) for name in names if name is not None}


def _value(claim: Claim, measured: Measured, seed: int) -> float:
    """The number of a seed to judge; with several values, the one that fits the claim worst."""
    sides = _sides(claim, measured, seed)
    if claim.orders:
        line = [value for name in claim.orders for value in sides[name]]
        return min(after - before for before, after in zip(line, line[1:], strict=False))
    values = sides[str(claim.metric)]
    if claim.baseline is not None:
        values = _differences(claim, values, sides[claim.baseline])
    if claim.rises_by is not None:
        return min(values) if claim.rises_by >= 0 else max(values)
    if claim.above is not None:
        return min(values)
    if claim.below is not None:
        return max(values)
    if claim.between is not None:
        low, high = claim.between
        return max(values, key=lambda value: max(low - value, value - high))
    return max(values, key=lambda value: abs(value - float(claim.paper or 0)))


def _differences(claim: Claim, values: list[float], start: list[float]) -> list[float]:
    """Each value minus the baseline's value; a sweep may share one baseline."""
    start = start * len(values) if len(start) == 1 else start
    if len(start) != len(values):
        raise NoValue(f"{claim.metric} has {len(values)} values and {claim.baseline} has {len(start)}")
    return [value - before for value, before in zip(values, start, strict=True)]


def _failure(claim: Claim, values: Mapping[int, float], mean: float) -> str:
    """Why a claim does not hold; empty if it does."""
    wrong = {seed: value for seed, value in values.items() if not _holds(claim, value)}
    if wrong:
        return "; ".join(f"{value:.4g} in seed {seed}" for seed, value in wrong.items())
    d = claim.rises_by
    if d is not None and (mean < d if d >= 0 else mean > d):
        return f"{mean:.4g} on average"
    if claim.paper is not None and not abs(mean - claim.paper) <= float(claim.within or 0):
        return f"{mean:.4g} on average"
    return ""


def _holds(claim: Claim, value: float) -> bool:
    """Whether the number of one seed fits the claim."""
    if claim.orders:
        return value > 0
    if claim.rises_by is not None:
        return value < 0 if claim.rises_by < 0 else value > 0
    if claim.above is not None:
        return value > claim.above
    if claim.below is not None:
        return value < claim.below
    if claim.between is not None:
        return claim.between[0] <= value <= claim.between[1]
    return True


def spread(values: Sequence[float]) -> tuple[float, float | None, float | None, float | None]:
    """Mean, sample standard deviation and the 95 % interval of the mean (Student's t); None for a single value."""
    mean, sd = mean_and_spread(values)
    if sd is None:
        return mean, None, None, None
    half = student(len(values) - 1) * sd / math.sqrt(len(values))
    return mean, sd, mean - half, mean + half


def together(judged: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of a recipe: reproduced if all claims that its stages test are, not reproduced if one is not."""
    verdicts = [claim["verdict"] for claim in judged if claim["seeds"]]
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return NOT_TESTED if NOT_TESTED in verdicts or not verdicts else REPRODUCED
