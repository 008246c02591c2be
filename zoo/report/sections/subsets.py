"""Accuracy on pairs of answers by the part of the data that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evals import share_score
from zoo.evals.pairs import Pair
from zoo.report.plots.bars import shares
from zoo.report.plots.tables import Panel, Table

BARS = 6
"""Up to this many parts are drawn; with more there is only the table."""
LINES = 24
"""Parts in the table, those with the most pairs."""
Row = Mapping[str, Any]


def subset_panels(samples: Sequence[Row]) -> list[Panel]:
    """For every evaluation that scored pairs of known origin: the accuracy on each part after training."""
    panels: list[Panel] = []
    for name in dict.fromkeys(row["eval"] for row in samples):
        parts = _parts([row for row in samples if (row["eval"], row["when"]) == (name, "after")])
        if len(parts) < 2:
            continue
        note = "The largest parts." if len(parts) > LINES else ""
        rows = [(part, *_line(pairs)) for part, pairs in list(parts.items())[:LINES]]
        if len(parts) <= BARS:
            hits = {part: (sum(pair.right for pair in pairs), len(pairs)) for part, pairs in parts.items()}
            plot = shares(
                f"{name}: right by subset",
                hits,
                "subset",
                "Accuracy on the pairs of each part of the data.",
                chance=0.5,
            )
            panels += [plot] if plot else []
        columns = ("subset", "pairs", "right", "low", "high", "mean margin")
        note = f"{note} low and high: the 95 % Wilson interval of the accuracy.".strip()
        panels.append(Table(f"{name}: subsets", columns, rows, note))
    return panels


def _parts(rows: Sequence[Row]) -> dict[str, list[Pair]]:
    """Those with the most pairs first."""
    parts: dict[str, list[Pair]] = {}
    for row in rows:
        pair = Pair.from_sample(row)
        if pair is not None and "subset" in row:
            parts.setdefault(str(row["subset"]), []).append(pair)
    return dict(sorted(parts.items(), key=lambda part: (-len(part[1]), part[0])))


def _line(pairs: Sequence[Pair]) -> tuple[int, float, float, float, float]:
    score = share_score("", sum(pair.right for pair in pairs), len(pairs))
    return score.n, score.value, score.low, score.high, sum(pair.margin for pair in pairs) / len(pairs)
