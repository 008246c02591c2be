"""The picture of a reproduction for the table of verdicts: what its claims compare, seed by seed.

The metrics of a claim determine its plot:

* `at`: the interpolated lines, one metric against the other;
* numbered details (`drawn.score_1`, `drawn.score_16`, …): lines over the numbers, or over √KL if the evaluation gives
  it for each number (`drawn.kl_16`);
* three or more stages of a sweep over numbers: lines over the swept values, and other stages as horizontal levels;
* everything else: a row for each name.

Claims with the same plot share it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.report.plots import seeds
from zoo.report.plots.axes import Plot, number
from zoo.report.plots.standalone import stand_alone

MOST = 6
"""Maximum number of plots."""
LEAST = 3
"""Minimum number of points of a line."""
NAME = re.compile(r"([^(.]+(?:\([^()]*\))?)\.(.+)")
"""`tuned(beta=0.1).drawn.length`: a stage and its metric."""
NUMBERED = re.compile(r"(.+)_(\d+)")

Results = Mapping[str, Any]
Claims = list[Mapping[str, Any]]
Key = tuple[Any, ...]


def recipe_picture(results: Results) -> str | None:
    """The text of an SVG file; None if nothing was measured. results: the content of results.json."""
    groups: dict[Key, Claims] = {}
    for claim in results["claims"]:
        if claim["seeds"]:
            groups.setdefault(_key(claim, results), []).append(claim)
    drawn = [_panel(key, claims, results) for key, claims in groups.items()]
    plots = [plot for plot in drawn if plot is not None][:MOST]
    if not plots:
        return None
    scale = f"at {results['variant']} scale"
    heading = [f"{results['recipe']} {scale}: {results['verdict']}", f"{seeds.key(results['seeds'])}\u2003| mean"]
    label = f"What the claims of {results['recipe']} compare, seed by seed: " + "; ".join(map(_told, plots))
    return stand_alone(plots, label, heading)


def write_picture(file: Path, results: Results) -> None:
    """Write the picture of these results; if there is nothing to draw, remove that of earlier results."""
    if (picture := recipe_picture(results)) is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(picture, encoding="utf-8")


def _told(plot: Plot) -> str:
    """The content of a plot, in words."""
    names = ", ".join(dict.fromkeys(str(row[0]) for row in plot.rows))
    if len(plot.columns) < 4:
        return names
    x, y = plot.columns[2:]
    return f"{names if y == names else f'{y} of {names}'} against {x}"


# -- what a claim is drawn as ------------------------------------------------------------------------------------


def _key(claim: Mapping[str, Any], results: Results) -> Key:
    """Claims with equal keys share a plot; the first word is its kind."""
    names = _names(claim)
    if any(entry["says"] == claim["says"] for entry in results["at"]):
        return ("at", claim["says"])
    metrics = tuple(dict.fromkeys(metric for _, metric in names))
    if evaluations := {_evaluation(name, results) for name in names} - {None}:
        return ("numbered", frozenset(evaluations))
    if len(metrics) == 1 and _swept(metrics[0], results):
        return ("swept", metrics[0])
    return ("rows", frozenset(names))


def _names(claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(stage, metric) of everything that a claim reads."""
    parts = re.split(r" [−<] ", claim["metric"].split(" at ")[0])
    return [(match[1], match[2]) for match in map(NAME.fullmatch, parts) if match]


def _stages(results: Results) -> dict[str, Mapping[str, Any]]:
    return {stage["name"]: stage for stage in results["stages"]}


def _value(results: Results, stage: str, metric: str, seed: int) -> float | None:
    return _stages(results)[stage]["values"].get(str(seed), {}).get(metric)


def _evaluation(name: tuple[str, str], results: Results) -> str | None:
    """`start.drawn` of `start.drawn.score_16`, if the evaluation has this detail for other numbers too."""
    match = NUMBERED.fullmatch(name[1])
    if match is None or len(_numbers(results, name[0], match[1])) < LEAST:
        return None
    return f"{name[0]}.{match[1].rpartition('.')[0]}"


def _numbers(results: Results, stage: str, metric: str) -> list[int]:
    """The numbers for which a stage has the detail `metric_NUMBER`."""
    values = _stages(results)[stage]["values"] if stage in _stages(results) else {}
    matches = [NUMBERED.fullmatch(name) for of_seed in values.values() for name in of_seed]
    return sorted({int(match[2]) for match in matches if match and match[1] == metric})


def _swept(metric: str, results: Results) -> list[str]:
    """The sweeps over numbers in which the claims read this metric from three or more stages."""
    named: dict[str, set[str]] = {}
    for claim in results["claims"]:
        for stage, name in _names(claim):
            sweep = stage.partition("(")[0]
            if name == metric and sweep != stage and sweep in results["sweeps"]:
                named.setdefault(sweep, set()).update(results["sweeps"][sweep] if stage.endswith("(*)") else [stage])
    return [sweep for sweep, stages in named.items() if len(stages) >= LEAST and _is_numeric(sweep, results)]


def _is_numeric(sweep: str, results: Results) -> bool:
    swept = [_stages(results)[name]["swept"] for name in results["sweeps"][sweep]]
    try:
        return all(len(options) == 1 and math.isfinite(float(*options.values())) for options in swept)
    except ValueError:
        return False


# -- drawing it --------------------------------------------------------------------------------------------------


def _panel(key: Key, claims: Claims, results: Results) -> Plot | None:
    title = " ".join(claim["says"] for claim in claims)
    verdicts = [claim["verdict"] for claim in claims]
    held = verdicts.count("reproduced")
    note = verdicts[0] if len(set(verdicts)) == 1 else f"{held} of {len(claims)} reproduced"
    plot = None
    if key[0] == "at":
        plot = _at(title, note, claims[0], results)
    elif key[0] == "numbered":
        plot = _numbered(title, note, claims, results)
    elif key[0] == "swept":
        plot = _over_sweeps(title, note, key[1], claims, results)
    metrics = dict.fromkeys(metric for claim in claims for _, metric in _names(claim))
    sides = {name: values for claim in claims for name, values in _sides(claim, results).items()}
    return plot or seeds.rows(title, sides, ", ".join(metrics), note)


def _sides(claim: Mapping[str, Any], results: Results) -> dict[str, list[float | None]]:
    """The values that a claim reads in each seed, by name; `tuned(*).score` gives one name per stage of the sweep."""
    sides: dict[str, list[float | None]] = {}
    for side in claim["sides"]:
        for name, values in side.items():
            stage, _, metric = name.partition("(*)")
            names = [f"{swept}{metric}" for swept in results["sweeps"].get(stage, ())] if metric else [name]
            for stage_metric, value in zip(names, values, strict=False):
                sides.setdefault(stage_metric, []).append(value)
    return sides


def _at(title: str, note: str, claim: Mapping[str, Any], results: Results) -> Plot | None:
    """The lines on which a claim interpolates, and its stages that are not part of a sweep."""
    interpolation = next(entry for entry in results["at"] if entry["says"] == claim["says"])
    drawn: dict[str, list[list[tuple[float, float | None]]]] = {}
    for name, points in interpolation["lines"].items():
        drawn.setdefault(name.rpartition(", seed ")[0], []).append([(x, y) for x, y in points])
    for stage, metric in _names(claim):
        if stage in _stages(results) and metric == interpolation["y"]:
            places = [(_value(results, stage, interpolation["x"], seed), _value(results, stage, metric, seed))
                      for seed in results["seeds"]]  # fmt: skip
            drawn[stage] = [[(x, y)] if x is not None else [] for x, y in places]
    at = (interpolation["value"], f"{interpolation['x']} = {interpolation['value']:g}")
    return seeds.lines(title, drawn, interpolation["x"], interpolation["y"], at=at, note=note)


def _numbered(title: str, note: str, claims: Claims, results: Results) -> Plot | None:
    """Details with a number in their names, over that number."""
    matches = [(stage, NUMBERED.fullmatch(metric)) for claim in claims for stage, metric in _names(claim)]
    metrics = list(dict.fromkeys((stage, match[1]) for stage, match in matches if match))
    numbers = sorted({number for stage, metric in metrics for number in _numbers(results, stage, metric)})
    only = {int(match[2]) for _, match in matches if match}
    distance = _distances(metrics, results)
    place = distance or {number: float(k) for k, number in enumerate(numbers)}
    drawn = {
        _short(stage, metric, metrics): [
            [(place[n], _value(results, stage, f"{metric}_{n}", seed)) for n in numbers if n in place]
            for seed in results["seeds"]
        ] for stage, metric in metrics
    }  # fmt: skip
    names = None if distance else {place[n]: f"{n:,}" for n in numbers}
    y_label = ", ".join(dict.fromkeys(metric.rpartition(".")[2] for _, metric in metrics))
    at = next((place[n], f"n = {n:,}") for n in only) if len(only) == 1 else None
    return seeds.lines(title, drawn, "√KL" if distance else "n", y_label, places=names, at=at, note=note)


def _distances(metrics: Sequence[tuple[str, str]], results: Results) -> dict[int, float]:
    """√KL by number, if all evaluations give it and agree; else nothing."""
    told: dict[int, set[float]] = {}
    for stage, metric in metrics:
        name = f"{metric.rpartition('.')[0]}.kl".lstrip(".")
        for n in _numbers(results, stage, metric):
            for seed in results["seeds"]:
                kl = _value(results, stage, f"{name}_{n}", seed)
                told.setdefault(n, set()).add(math.nan if kl is None else round(max(0.0, kl), 9))
    distances = {n: math.sqrt(next(iter(values))) for n, values in told.items() if len(values) == 1}
    agree = len(distances) == len(told) and all(map(math.isfinite, distances.values()))
    return distances if agree else {}


def _short(stage: str, metric: str, among: Sequence[tuple[str, str]]) -> str:
    """The name of a line, without the part that all lines have in common."""
    evaluations = {(one, name.rpartition(".")[0]) for one, name in among}
    if len(evaluations) == 1:
        return metric.rpartition(".")[2]
    return metric if len({one for one, _ in among}) == 1 else f"{stage}.{metric}"


def _over_sweeps(title: str, note: str, metric: str, claims: Claims, results: Results) -> Plot | None:
    """A metric over the values of sweeps, equally spaced; other stages that the claims read are horizontal levels."""
    sweeps = _swept(metric, results)
    stages = {sweep: [_stages(results)[name] for name in results["sweeps"][sweep]] for sweep in sweeps}
    options = {sweep: next(iter(of_it[0]["swept"])) for sweep, of_it in stages.items()}
    values = sorted({float(*stage["swept"].values()) for of_it in stages.values() for stage in of_it})
    several = len(set(options.values())) > 1
    drawn = {
        f"{sweep} ({options[sweep]})" if several else sweep: [
            sorted((float(values.index(float(*stage["swept"].values()))), _value(results, stage["name"], metric, seed))
                   for stage in of_it) for seed in results["seeds"]
        ] for sweep, of_it in stages.items()
    }  # fmt: skip
    levels: dict[str, list[float]] = {}
    for claim in claims:
        for name, by_seed in _sides(claim, results).items():
            if name.partition("(")[0] not in sweeps:
                stage = name.removesuffix(f".{metric}")
                levels[f"{stage} (mean, range)"] = [value for value in by_seed if value is not None]
    x_label = ", ".join(dict.fromkeys(options.values()))
    places = {float(k): number(value) for k, value in enumerate(values)}
    return seeds.lines(title, drawn, x_label, metric, places=places, levels=levels, note=note)
