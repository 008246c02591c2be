"""What a mean does not show: pairs of answers by margin, confidence and length, and held-out metrics case by case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo.evals.pairs import Pair, calibration_error, certainty_bins, correlation
from zoo.numbers import amount
from zoo.report.plots.axes import Plot, number
from zoo.report.plots.bars import histogram, reliability, shares
from zoo.report.plots.lines import scatter
from zoo.report.plots.panels import SIDES

LENGTH_BINS = ((-math.inf, -0.5), (-0.5, -0.1), (-0.1, 0.1), (0.1, 0.5), (0.5, math.inf))
"""(chosen − rejected) / the longer one, in tokens."""

FEW = 4
"""A metric with at most this many distinct values, such as accuracies with ties, gets no histogram."""


def pair_plots(samples: Sequence[Mapping[str, Any]], rewards: bool) -> list[Plot]:
    """For every evaluation that scored pairs: margins before and after; confidence and length after.

    rewards: whether the scores come from a reward model, so that their differences are log-odds.
    """
    drawn: list[Plot | None] = []
    for name in dict.fromkeys(row["eval"] for row in samples):
        sides = {when: _pairs(samples, name, when) for when in ("before", "after")}
        if sides["after"]:
            margins = {when: [pair.margin for pair in pairs] for when, pairs in sides.items()}
            note = "Score of the chosen answer minus that of the rejected one; above 0 the pair is in the right order."
            drawn.append(histogram(f"{name}: margins", margins, "chosen − rejected", note))
            drawn += _of_pairs(name, sides["after"], rewards)
    return [plot for plot in drawn if plot is not None]


def _pairs(samples: Sequence[Mapping[str, Any]], name: str, when: str) -> list[Pair]:
    pairs = (Pair.from_sample(row) for row in samples if (row["eval"], row["when"]) == (name, when))
    return [pair for pair in pairs if pair is not None]


def _of_pairs(name: str, pairs: Sequence[Pair], rewards: bool) -> Iterable[Plot | None]:
    points = {
        "chosen": [(pair.chosen_length, pair.chosen) for pair in pairs],
        "rejected": [(pair.rejected_length, pair.rejected) for pair in pairs],
    }
    scores = {side: [score for _, score in answers] for side, answers in points.items()}
    yield histogram(f"{name}: scores", scores, "score")
    margins = [pair.margin for pair in pairs]
    if rewards:
        note = (
            f"Expected calibration error {calibration_error(margins):.3f}, n {amount(len(pairs), 'pair')}. On the "
            "dashed line the confidence σ(|chosen − rejected|) equals the accuracy. Thin lines are 95 % Wilson "
            "intervals."
        )
        yield reliability(f"{name}: calibration", certainty_bins(margins), note)
    by_length = {
        _span(low, high): _right([pair for pair in pairs if low <= pair.difference < high]) for low, high in LENGTH_BINS
    }
    note = "On the left the chosen answer is shorter, on the right it is longer."
    yield shares(f"{name}: right by length", by_length, "(chosen − rejected) / longer, tokens", note, chance=0.5)
    r = correlation([point for answers in points.values() for point in answers])
    note = f"r = {r:+.3f}, n {2 * len(pairs)} answers." if r is not None else "All lengths or all scores are equal."
    yield scatter(f"{name}: score against length", points, "tokens", "score", note, labelled=False)


def _right(pairs: Sequence[Pair]) -> tuple[float, int]:
    return sum(pair.right for pair in pairs), len(pairs)


def _span(low: float, high: float) -> str:
    if low == -math.inf:
        return f"< {number(high)}"
    return f"≥ {number(low)}" if high == math.inf else f"{number(low)} … {number(high)}"


def case_plots(cases: Mapping[str, Mapping[str, Any]], meaning: Mapping[str, str]) -> list[Plot]:
    """A histogram of every metric over the held-out cases, at the start and at the end.

    The sides of one metric (chosen and rejected) share a plot, which shows only the end.
    cases: heldout.json, {"first": {"step": 0, "values": {name: [value or None]}}, "last": …}.
    """
    first, last = (dict(cases.get(when, {}).get("values", {})) for when in ("first", "last"))
    # The lengths of the data's answers, which other plots use.
    last = {name: values for name, values in last.items() if not name.startswith("length/")}
    panels: dict[str, dict[str, list[float]]] = {}
    for name, values in last.items():
        stem, _, side = name.rpartition("/")
        if stem and side in SIDES:
            panels.setdefault(stem, {})[f"{side}, end"] = _known(values)
        else:
            panels[name] = {"start": _known(first.get(name, [])), "end": _known(values)}
    drawn = [
        histogram(f"held-out {panel}", sides, panel, meaning.get(panel, ""))
        for panel, sides in panels.items() if len({v for side in sides if side != "start" for v in sides[side]}) > FEW
    ]  # fmt: skip
    return [plot for plot in drawn if plot is not None]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
