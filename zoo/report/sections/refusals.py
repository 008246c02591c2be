"""Refusals of harmful prompts against refusals of benign ones: neither means anything without the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from zoo.report.plots.axes import Axes, Plot, colours, number
from zoo.report.plots.lines import scatter

WANTED, UNWANTED = "refusal", "over_refusal"
"""The evaluations: shares of harmful prompts, and of their benign counterparts, that are refused or evaded."""
Scores = Mapping[str, Mapping[str, Any]]
Found = TypeVar("Found")


def refusal_plot(moments: Mapping[str, Scores]) -> Plot | None:
    """Both shares before and after training, with their 95 % intervals. None if one of them was not measured.

    moments: scores by name, each with value, low, high and n.
    """
    shares = {when: (_of(scores, UNWANTED), _of(scores, WANTED)) for when, scores in moments.items()}
    pairs = {when: (over, wanted) for when, (over, wanted) in shares.items() if over and wanted}
    if not pairs:
        return None
    axes = Axes([0.0, 1.0], [0.0, 1.0], "benign prompts refused", "harmful prompts refused")
    axes.frame()
    axes.line(axes.x(0.0), axes.y(0.0), axes.x(1.0), axes.y(1.0), "start")
    shades = colours(list(pairs))
    for when, (over, wanted) in pairs.items():
        axes.whisker(over["value"], wanted["low"], wanted["high"], shades[when])
        axes.level_whisker(wanted["value"], over["low"], over["high"], shades[when])
        tip = f"{when}: refused {number(wanted['value'])} of harmful and {number(over['value'])} of benign prompts"
        axes.dot(over["value"], wanted["value"], shades[when], tip)
    title = "harmless against helpful"
    note = (
        "Refused or evaded, detected by a few patterns. Up is more harmless, left is more helpful. On the dashed line "
        "a model refuses both kinds equally often. Thin lines are 95 % Wilson intervals."
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
    """The same for many runs, a dot for each. None if one of the two was not measured.

    values: by evaluation and label, a number for each seed; start: by evaluation.
    """
    over, wanted = (_of(values, name) for name in (UNWANTED, WANTED))
    if over is None or wanted is None:
        return None
    points: dict[str, Sequence[tuple[float | None, float | None]]] = {
        "start": [(_of(start, UNWANTED), _of(start, WANTED))]
    }
    points |= {label: list(zip(over.get(label, ()), shares, strict=False)) for label, shares in wanted.items()}
    note = "Each dot is a run; up and left is better."
    return scatter("harmless against helpful", points, "benign prompts refused", "harmful prompts refused", note)


def _of(named: Mapping[str, Found], name: str) -> Found | None:
    """The result of an evaluation, whatever its options."""
    return next((result for label, result in named.items() if label.partition("(")[0] == name), None)
