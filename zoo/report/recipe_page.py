"""report.html of a reproduction: claims with their figures and verdicts, plots, sweeps, curves, samples, deviations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.environments import answer_in
from zoo.evals.kept_scores import read_samples
from zoo.report import data_files, pages
from zoo.report.comparison_page import overlaid
from zoo.report.plots import lines as plots
from zoo.report.plots.axes import Plot
from zoo.report.plots.series import Series
from zoo.runs import Run

PROMPTS_SHOWN = 4
ANSWERS_SHOWN = 10
"""Maximum number of stages whose answers are shown side by side."""


def write_recipe_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write report.html into the folder of a reproduction. results: the content of results.json."""
    taken: set[str] = set()
    drawn = {
        heading: data_files.named(of_it, taken)
        for heading, of_it in {
            "Claims": _claims(results),
            "Sweeps": _sweeps(results),
            **_curves(folder, results),
        }.items()
        if of_it
    }
    data_files.write(folder, [plot for of_it in drawn.values() for plot in of_it])
    page = pages.render(
        "recipe.html", title=f"{results['recipe']}, {results['variant']} scale", results=results, plots=drawn,
        samples=_samples(folder, results),
    )  # fmt: skip
    return pages.write(folder / "report.html", page)


def _claims(results: Mapping[str, Any]) -> list[Plot]:
    """For each claim the values that it compares, one dot per seed."""
    drawn: dict[str, Plot | None] = {}
    for claim in results["claims"]:
        sides: dict[str, list[float | None]] = {}
        for side in claim["sides"]:
            for name, values in side.items():
                for number, value in enumerate(values):
                    sides.setdefault(name if len(values) == 1 else f"{name} {number + 1}", []).append(value)
        title = claim["metric"]
        drawn.setdefault(title, plots.dots(title, sides, "value", note=f"{claim['says']} ({claim['verdict']})"))
    return [plot for plot in drawn.values() if plot is not None]


def _sweeps(results: Mapping[str, Any]) -> list[Plot]:
    """Every metric of a sweep's stages against the swept value, and the lines on which claims interpolate."""
    drawn: list[Plot | None] = []
    for interpolation in results["at"]:
        x_name, y_name = interpolation["x"], interpolation["y"]
        lines = {
            name: [(x, y, i + 1) for i, (x, y) in enumerate(points)] for name, points in interpolation["lines"].items()
        }
        note = f"{interpolation['says']} Read at {x_name} = {interpolation['value']:g}."
        drawn.append(plots.paths(f"{y_name} against {x_name}", lines, x_name, note=note))
    by_name = {stage["name"]: stage for stage in results["stages"]}
    for sweep, names in results["sweeps"].items():
        drawn += _sweep(sweep, [by_name[name] for name in names], results["seeds"])
    return [plot for plot in drawn if plot is not None]


def _sweep(sweep: str, stages: list[dict[str, Any]], seeds: list[int]) -> list[Plot | None]:
    options = list(stages[0]["swept"])
    metrics = dict.fromkeys(name for stage in stages for values in stage["values"].values() for name in values)
    if len(options) != 1 or not all(_is_number(stage["swept"][options[0]]) for stage in stages):
        return [
            plots.dots(f"{sweep}: {name}", {s["name"]: [v.get(name) for v in s["values"].values()] for s in stages},
                       name) for name in metrics
        ]  # fmt: skip
    label = options[0]
    lines = {
        name: {f"seed {seed}": [(float(s["swept"][label]), s["values"][str(seed)].get(name)) for s in stages]
               for seed in seeds} for name in metrics
    }  # fmt: skip
    return [plots.curves(f"{sweep}: {name}", of_it, {"step": (label, _itself)}) for name, of_it in lines.items()]


def _itself(line: str, place: float) -> float:
    return place


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _curves(folder: Path, results: Mapping[str, Any]) -> dict[str, list[Plot]]:
    """The training metrics of the first seed, with the stages of one algorithm in one plot."""
    seed = results["seeds"][0]
    drawn: dict[str, list[Plot]] = {}
    for kind in dict.fromkeys(stage["kind"] for stage in results["stages"]):
        runs = {
            stage["name"]: Series(Run(folder / f"seed-{seed}" / stage["folder"]).log_history)
            for stage in results["stages"] if stage["kind"] == kind
        }  # fmt: skip
        runs = {name: series for name, series in runs.items() if series.names}
        of_kind = [plot for of_it in overlaid(runs, least=1).values() for plot in of_it] if runs else []
        if of_kind:
            drawn[f"Training with {kind}, seed {seed}"] = of_kind
    return drawn


def _samples(folder: Path, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers of the stages to the same prompts, by evaluation, for the first seed."""
    by_eval: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in results["stages"]:
        for row in read_samples(Run(folder / f"seed-{results['seeds'][0]}" / stage["folder"])):
            if row["when"] != "after" or "prompt" not in row or "answer" not in row:
                continue
            prompts = by_eval.setdefault(row["eval"], {})
            entry = prompts.setdefault(json.dumps(row["prompt"]), {"prompt": row["prompt"], "answers": {}})
            if len(entry["answers"]) < ANSWERS_SHOWN:
                entry["answers"].setdefault(stage["name"], (answer_in(row), row.get("score")))
    samples = []
    for name, prompts in by_eval.items():
        rows = list(prompts.values())
        step = max(1, len(rows) // PROMPTS_SHOWN)
        samples.append({"eval": name, "rows": rows[::step][:PROMPTS_SHOWN], "count": len(rows)})
    return samples
