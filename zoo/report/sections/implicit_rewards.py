"""What training has taught about length: the rewards of held-out answers against their length, case by case.

A reward here is what an algorithm logs as `rewards/SIDE`: β times the gain in log-probability, or a reward model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evals.pairs import correlation
from zoo.report.plots.axes import Plot, Point
from zoo.report.plots.lines import scatter
from zoo.report.plots.panels import SIDES

REWARDS, LENGTH = "rewards/", "length/"
Columns = Mapping[str, Sequence[float | None]]


def implicit_reward_plots(cases: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Reward against length, and for pairs the difference in reward against the difference in length.

    cases: heldout.json with `rewards/chosen` and `length/chosen` for each side, or with one `length/…` for all.
    """
    last: Columns = cases.get("last", {}).get("values", {})
    sides = {side: _against(last, side) for side in SIDES if REWARDS + side in last}
    sides = {side: points for side, points in sides.items() if points}
    if not sides:
        return []
    note = f"At the end. r: {', '.join(f'{side} {said(points)}' for side, points in sides.items())}."
    drawn = [scatter("held-out rewards against length", sides, "tokens", "reward", note, labelled=False)]
    if differences := _differences(last):
        longer = [point for point in differences if point[0] > 0]
        right = sum(y > 0 for _, y in longer)
        note = f"A dot is a pair, at the end. r: {said(differences)}."
        note += f" Of the pairs with a longer chosen answer, {right} of {len(longer)} are above 0."
        title = "held-out margins against difference in length"
        drawn.append(scatter(title, {"pairs": differences}, "chosen − rejected, tokens", "margin", note, False))
    return [plot for plot in drawn if plot is not None]


def _against(columns: Columns, side: str) -> list[Point]:
    """(tokens, reward) of the answers of a side; if a batch has only one answer, its length under any name."""
    lengths = [name for name in columns if name.startswith(LENGTH)]
    tokens = columns.get(LENGTH + side) or (columns[lengths[0]] if len(lengths) == 1 else [])
    pairs = zip(tokens, columns[REWARDS + side], strict=False)
    return [(length, reward) for length, reward in pairs if length is not None and reward is not None]


def _differences(columns: Columns) -> list[Point]:
    """(tokens, reward) of the chosen answers minus those of the rejected ones, if all four are known."""
    names = [of + side for of in (LENGTH, REWARDS) for side in ("chosen", "rejected")]
    rows = zip(*(columns.get(name, ()) for name in names), strict=False)
    complete = [[value for value in row if value is not None] for row in rows]
    return [(row[0] - row[1], row[2] - row[3]) for row in complete if len(row) == len(names)]


def said(points: Sequence[Point]) -> str:
    """`+0.42 (n 118)`: Pearson's r."""
    r = correlation(points)
    return f"{'–' if r is None else f'{r:+.2f}'} (n {len(points)})"
