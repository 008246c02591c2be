"""Judges claims: compares what a recipe claims about its stages with the measured values.

`zoo.recipes.verdicts` has the rule by which values over seeds become a verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.evals import Score, Z, mean_score, within_0_and_1
from zoo.evals.changes import averaged, change
from zoo.numbers import amount
from zoo.recipes.form import METRIC, Claim
from zoo.recipes.verdicts import (
    CONTRADICTED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
    Bounds,
    Quantity,
    deciding,
    verdict,
)


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
    """The measured values by seed, stage and metric.

    matching: gives the stages that a name stands for, in order; scores: those of evaluations with their cases, by seed,
    stage and metric.
    """

    values: Mapping[int, Mapping[str, Mapping[str, float | None]]]
    matching: Callable[[str], Sequence[str]]
    scores: Mapping[int, Mapping[str, Mapping[str, Score]]] = field(default_factory=dict)

    def one(self, stage: str, metric: str, seed: int) -> float:
        """One number. Raises NoValue if it is missing or not a number."""
        value = self.values.get(seed, {}).get(stage, {}).get(metric)
        if value is None or not math.isfinite(value):
            raise NoValue(f"{stage}.{metric} has no value in seed {seed}")
        return float(value)

    def of(self, metric: str, seeds: Sequence[int], at: tuple[str, float] | None = None) -> list[Column]:
        """The values of `STAGE.METRIC`, one column per stage of a sweep; with `at` (metric, value) a single one, which
        is interpolated."""
        stage, name = split_metric(metric)
        stages = self.matching(stage)
        if not stages:
            raise NoValue(f"there is no stage {stage}")
        if at is None or not stage.endswith("(*)"):
            return [
                Column(f"{each}.{name}", [self.one(each, name, seed) for seed in seeds], self._cases(each, name, seeds))
                for each in stages
            ]
        return [Column(metric, [self._at(stages, stage, name, seed, at) for seed in seeds])]

    def _at(self, stages: Sequence[str], sweep: str, name: str, seed: int, at: tuple[str, float]) -> float:
        points = [(self.one(each, at[0], seed), self.one(each, name, seed)) for each in stages]
        return interpolate(points, at[1], f"{sweep}.{at[0]}", seed)

    def _cases(self, stage: str, metric: str, seeds: Sequence[int]) -> Score | None:
        """The score averaged over seeds, case by case; None unless all seeds have the same cases."""
        scores = [self.scores.get(seed, {}).get(stage, {}).get(metric) for seed in seeds]
        known = [score for score in scores if score is not None and score.cases and score.about]
        if len(known) < len(seeds) or len({(len(score.cases), score.about) for score in known}) > 1:
            return None
        return averaged(known)


@dataclass(frozen=True)
class Column:
    """One number in every seed; cases: the score averaged over seeds if all seeds have the same cases."""

    name: str
    values: list[float]
    cases: Score | None = None


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

    quantities: what has to hold, each with its values by seed, mean, sd and the interval that decides (None for one
    seed); values, mean, sd, low, high: those of the quantity that the verdict depends on; why: the reason, with the
    number of seeds that would decide; sides: all values that the claim reads, by seed.
    """
    if claim.untested is not None:
        return untested(claim, claim.untested)
    claimed = {**described(claim), "seeds": list(seeds)}
    try:
        judged = quantities(claim, measured, seeds)
    except NoValue as error:
        return {**claimed, **_EMPTY, "verdict": NOT_TESTED, "why": str(error)}
    found = verdict(judged)
    decides = deciding(judged, found)
    return {
        **claimed, **_numbers(decides),
        "quantities": [{"name": quantity.name, **_numbers(quantity)} for quantity in judged],
        "sides": [_sides(claim, measured, seed) for seed in seeds],
        "verdict": found, "why": _why(judged, decides, found), "more_seeds": _more(judged, found),
    }  # fmt: skip


def untested(claim: Claim, why: str) -> dict[str, Any]:
    """A claim for another scale, which this run cannot test."""
    return {**described(claim), "seeds": [], **_EMPTY, "verdict": NOT_TESTED, "why": why}


_EMPTY: dict[str, Any] = {
    "values": [], "mean": None, "sd": None, "low": None, "high": None, "quantities": [], "sides": [],
    "more_seeds": None,
}  # fmt: skip


def _numbers(quantity: Quantity) -> dict[str, Any]:
    low, high = quantity.interval() or (None, None)
    return {"values": list(quantity.values), "mean": quantity.mean, "sd": quantity.sd, "low": low, "high": high}


def described(claim: Claim) -> dict[str, Any]:
    """The claim in words."""
    return {"id": claim.id, "says": claim.says, "rule": rule(claim), "metric": subject(claim), "where": claim.where}


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
        return "rises with each step" + (f", by {claim.by:g} or more" if claim.by else "")
    if claim.by is not None:
        return f"above 0, by {claim.by:g} or more" if claim.by >= 0 else f"below 0, by {-claim.by:g} or more"
    if claim.above is not None:
        return f"above {claim.above:g}"
    if claim.below is not None:
        return f"below {claim.below:g}"
    if claim.between is not None:
        return f"between {claim.between[0]:g} and {claim.between[1]:g}"
    return f"{claim.paper:g} ± {claim.within:g}"


def stated(claim: Claim) -> str:
    """What has to be measured, and the rule for it."""
    return f"not tested, {claim.untested}" if claim.untested is not None else f"{subject(claim)}: {rule(claim)}"


def _at(claim: Claim) -> tuple[str, float] | None:
    """The metric over which a sweep is interpolated, without its stage, and the value."""
    if claim.at is None:
        return None
    return split_metric(claim.at.metric)[1], claim.at.value


def _sides(claim: Claim, measured: Measured, seed: int) -> dict[str, list[float]]:
    """The values of one seed, by their names in the claim."""
    names = [*(claim.orders or []), claim.metric, claim.baseline]
    return {
        name: [column.values[0] for column in measured.of(name, [seed], _at(claim))]
        for name in names if name is not None
    }  # fmt: skip


# -- quantities --------------------------------------------------------------------------------------------------


def quantities(claim: Claim, measured: Measured, seeds: Sequence[int]) -> list[Quantity]:
    """What has to hold: each step of an order, and each stage of a sweep, by itself."""
    bounds = _bounds(claim)
    at = _at(claim)
    if claim.orders:
        line = [column for name in claim.orders for column in measured.of(name, seeds, at)]
        return [_difference(after, before, bounds) for before, after in zip(line, line[1:], strict=False)]
    columns = measured.of(str(claim.metric), seeds, at)
    if claim.baseline is None:
        return [Quantity(column.name, column.values, bounds, _error(column.cases)) for column in columns]
    start = measured.of(claim.baseline, seeds, at)
    start = start * len(columns) if len(start) == 1 else start
    if len(start) != len(columns):
        raise NoValue(f"{claim.metric} has {len(columns)} values and {claim.baseline} has {len(start)}")
    return [_difference(column, before, bounds) for column, before in zip(columns, start, strict=True)]


def _bounds(claim: Claim) -> Bounds:
    if claim.orders or claim.by is not None:
        return Bounds(by=claim.by or 0.0)
    if claim.between is not None:
        return Bounds(*claim.between)
    if claim.paper is not None:
        return Bounds(claim.paper - float(claim.within or 0), claim.paper + float(claim.within or 0))
    return Bounds(claim.above, claim.below)


def _difference(after: Column, before: Column, bounds: Bounds) -> Quantity:
    values = [value - start for value, start in zip(after.values, before.values, strict=True)]
    error = 0.0
    if after.cases is not None and before.cases is not None:
        difference = change(before.cases, after.cases)
        error = (difference.noise or 0.0) / Z
    return Quantity(f"{after.name} − {before.name}", values, bounds, error)


def _error(cases: Score | None) -> float:
    """The standard error of a mean over cases that all seeds share."""
    if cases is None:
        return 0.0
    return mean_score("", cases.cases, within_0_and_1(cases.cases)).noise / Z


def _why(judged: Sequence[Quantity], decides: Quantity, found: str) -> str:
    """Why a claim is not reproduced, in words; empty if it is."""
    if found == REPRODUCED:
        return ""
    name = f"{decides.name}: " if len(judged) > 1 else ""
    interval = decides.interval()
    if interval is None:
        return f"{name}one seed says nothing about the spread over seeds"
    shown = f"{name}{interval[0]:.4g} to {interval[1]:.4g}"
    if found == CONTRADICTED:
        return shown
    more = _more(judged, found)
    if more is None:
        return f"{shown}; more seeds would not decide it"
    return f"{shown}; about {amount(more, 'seed')} would decide it"


def _more(judged: Sequence[Quantity], found: str) -> int | None:
    """How many seeds would decide an undecided claim if means and deviations stayed; None if no number would."""
    if found != UNDECIDED:
        return None
    needed = [quantity.seeds_to_decide() for quantity in judged]
    known = [number for number in needed if number is not None]
    return max(known) if len(known) == len(needed) else None


# -- all claims --------------------------------------------------------------------------------------------------


def counted(judged: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many of a recipe's claims have which verdict, without those for another scale."""
    return dict(Counter(claim["verdict"] for claim in judged if claim["seeds"]))


def together(judged: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of a recipe: `4 of 5 reproduced, 1 contradicted`."""
    counts = counted(judged)
    whole = sum(counts.values())
    if not whole:
        return NOT_TESTED
    rest = "".join(f", {counts[name]} {name}" for name in (CONTRADICTED, UNDECIDED, NOT_TESTED) if name in counts)
    return f"{counts.get(REPRODUCED, 0)} of {whole} reproduced{rest}"
