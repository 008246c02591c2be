"""Whether long answers score better: on held-out prompts, in evaluations and in rollouts, and how answers end.

Lengths are in tokens if these were kept, else in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evals import Score, mean_score, share_score
from zoo.evals.kept_scores import HELD_OUT
from zoo.evals.pairs import Pair, correlation
from zoo.report.plots.axes import FEWEST_CASES, Plot, number
from zoo.report.plots.bars import histogram
from zoo.report.plots.lines import scatter
from zoo.report.plots.tables import Table
from zoo.report.sections.answers import moment

MEASURES = ("reward", "gold", "grade")
"""Held-out metrics that score an answer."""
FEWEST = 8
"""Scored answers; with fewer, nothing is drawn."""
Points = list[tuple[float, float]]
Cases = Mapping[str, Mapping[str, Any]]


def length_plots(cases: Cases, samples: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """A plot for each score of held-out answers (heldout.json) and for each evaluation whose answers were kept."""
    drawn = []
    held_out = {"start": _columns(cases, "first"), "end": _columns(cases, "last")}
    for measure in MEASURES:
        sides = {side: _together(of_it, measure) for side, of_it in held_out.items()}
        drawn.append(_plot(f"held-out {measure}", sides, "tokens"))
    for name in dict.fromkeys(row["eval"] for row in samples):
        rows = [row for row in samples if row["eval"] == name and _scored(row)]
        if name != HELD_OUT or not held_out["end"]:
            drawn.append(_of_samples(name, rows))
    return [plot for plot in drawn if plot is not None]


def _columns(cases: Cases, when: str) -> Mapping[str, Sequence[float | None]]:
    values: Mapping[str, Sequence[float | None]] = cases.get(when, {}).get("values", {})
    return values


def _together(columns: Mapping[str, Sequence[float | None]], measure: str) -> Points:
    pairs = zip(columns.get("length", ()), columns.get(measure, ()), strict=False)
    return [(length, score) for length, score in pairs if length is not None and score is not None]


def _scored(row: Mapping[str, Any]) -> bool:
    """Whether it is an answer of the model with a score, and not a pair of the data."""
    return isinstance(row.get("score"), int | float) and Pair.from_sample(row) is None


def _of_samples(name: str, rows: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Answers before and after training; of rollouts, those of either half of the run."""
    tokens = all(row.get("length") is not None for row in rows)
    if {"before", "after"} & {row["when"] for row in rows}:
        ends = {"start": "before", "end": "after"}
        sides = {side: [row for row in rows if row["when"] == when] for side, when in ends.items()}
    else:
        ordered = sorted(rows, key=lambda row: moment(row["when"]))
        half = len(ordered) // 2
        sides = {"first half": ordered[:half], "second half": ordered[half:]}
    points = {
        side: [(float(row["length"] if tokens else len(row["answer"].split())), float(row["score"])) for row in of_it]
        for side, of_it in sides.items()
    }
    return _plot(name, points, "tokens" if tokens else "words")


def _plot(name: str, sides: Mapping[str, Points], unit: str) -> Plot | None:
    """Length against score; if scores are 0 or 1, the lengths of the answers with each score at the end."""
    last = list(sides.values())[-1]
    if len(last) < FEWEST or len({length for length, _ in last}) < 2:
        return None
    if {score for points in sides.values() for _, score in points} <= {0.0, 1.0}:
        by_score = {f"score {k}": [length for length, score in last if score == k] for k in (1, 0)}
        means = ", ".join(f"{side} {_mean(lengths)}" for side, lengths in by_score.items() if lengths)
        return histogram(f"{name}: length by score", by_score, unit, f"{list(sides)[-1].capitalize()}: {means}.")
    correlations = {side: (correlation(points), len(points)) for side, points in sides.items() if points}
    told = (f"{side} {'–' if r is None else f'{r:+.2f}'} (n {n})" for side, (r, n) in correlations.items())
    return scatter(f"{name}: score against length", sides, unit, "score", f"r: {', '.join(told)}.", labelled=False)


def _mean(lengths: Sequence[float]) -> str:
    score = mean_score("", list(lengths))
    return f"{number(score.value)}{f' ± {number(score.noise)}' if score.n >= FEWEST_CASES else ''} (n {score.n})"


def ending_table(cases: Cases) -> Table | None:
    """How held-out answers ended: at an end-of-turn token or at the length limit. None if that is not known."""
    rows = []
    for side, when in (("start", "first"), ("end", "last")):
        columns = _columns(cases, when)
        answers = list(zip(columns.get("length", ()), columns.get("cut", ()), strict=False))
        lengths = [length for length, cut in answers if length is not None and not cut]
        if answers:
            cut = share_score("cut", len(answers) - len(lengths), len(answers))
            every: Score = mean_score("", [length for length, _ in answers if length is not None])
            ended = mean_score("", lengths) if lengths else None
            rows.append((side, cut.n, cut.value, cut.low, cut.high, every.value, ended.value if ended else None))
    columns_shown = ("answers", "n", "cut", "low", "high", "mean tokens", "mean tokens of those that ended")
    note = "Cut: at the length limit. low and high: the 95 % Wilson interval of the share of cut answers."
    return Table("held-out answers by their end", columns_shown, rows, note) if rows else None
