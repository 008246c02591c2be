"""Refusing what nobody should help with, against refusing what is harmless: one without the other says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from zoo.report.plots.axes import Axes, Plot, colours, number
from zoo.report.plots.lines import scatter

WANTED, UNWANTED = "refusal", "over_refusal"
"""The evaluations: shares of unwanted prompts, and of their harmless twins, that are refused or evaded."""
Scores = Mapping[str, Mapping[str, Any]]
Found = TypeVar("Found")


def refusal_plot(moments: Mapping[str, Scores]) -> Plot | None:
    """Both shares at each moment ("before", "after"), with their 95 % intervals. None where one is not measured.

    moments: scores by name, each with value, low, high and n.
    """
    known = {when: (_of(scores, UNWANTED), _of(scores, WANTED)) for when, scores in moments.items()}
    pairs = {when: (over, wanted) for when, (over, wanted) in known.items() if over and wanted}
    if not pairs:
        return None
    axes = Axes([0.0, 1.0], [0.0, 1.0], "harmless prompts refused", "unwanted prompts refused")
    axes.frame()
    axes.line(axes.x(0.0), axes.y(0.0), axes.x(1.0), axes.y(1.0), "start")
    shades = colours(list(pairs))
    for when, (over, wanted) in pairs.items():
        axes.whisker(over["value"], wanted["low"], wanted["high"], shades[when])
        axes.level_whisker(wanted["value"], over["low"], over["high"], shades[when])
        tip = f"{when}: {number(wanted['value'])} of unwanted, {number(over['value'])} of harmless prompts refused"
        axes.dot(over["value"], wanted["value"], shades[when], tip)
    title = "harmless against helpful"
    note = (
        "Refused or evaded, told by a few patterns. Up is harmless, left is helpful; on the broken line a model "
        "refuses whatever it is asked. Thin lines are 95 % Wilson intervals."
    )
    rows = [
        (when, *(of_it[key] for of_it in (over, wanted) for key in ("value", "low", "high", "n")))
        for when, (over, wanted) in pairs.items()
    ]
    columns = [f"{name}{end}" for name in (UNWANTED, WANTED) for end in ("", " low", " high", " n")]
    return Plot(title, {"": axes.svg(title)}, ["when", *columns], rows, shades, note)


def refusal_scatter(
    values: Mapping[str, Mapping[str, Sequence[float | None]]], start: Mapping[str, float]
) -> Plot | None:  # fmt: skip
    """The same of many runs, a dot for each. None where one of the two is not measured.

    values: by evaluation and label, a number for each seed; start: by evaluation.
    """
    over, wanted = (_of(values, name) for name in (UNWANTED, WANTED))
    if over is None or wanted is None:
        return None
    points: dict[str, Sequence[tuple[float | None, float | None]]] = {
        "start": [(_of(start, UNWANTED), _of(start, WANTED))]
    }
    points |= {label: list(zip(over.get(label, ()), shares, strict=False)) for label, shares in wanted.items()}
    note = "A dot is a run; up and left is better."
    return scatter("harmless against helpful", points, "harmless prompts refused", "unwanted prompts refused", note)


def _of(named: Mapping[str, Found], name: str) -> Found | None:
    """What an evaluation found, whatever options it was asked for with."""
    return next((found for label, found in named.items() if label.partition("(")[0] == name), None)
