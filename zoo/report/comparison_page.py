"""report.html of a comparison: the table of results, plots, differences with their intervals, answers side by side.

And the page of finished runs side by side: the options that differ, their results, their curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.environments import answer_in
from zoo.evals.kept_scores import read_samples
from zoo.report import data_files, pages
from zoo.report.plots import lines as plots
from zoo.report.plots.axes import Plot
from zoo.report.plots.panels import CORE_METRICS, NO_CURVE, heading_of, panel_of
from zoo.report.plots.series import Series, common_axes
from zoo.report.sections.overoptimisation import plot_frontiers
from zoo.report.sections.refusals import refusal_scatter
from zoo.runs import Run
from zoo.secrets import scrubbed

PROMPTS_SHOWN = 8


def write_comparison_page(folder: Path, results: dict[str, Any], command: str = "") -> Path:
    """Write report.html next to the runs of a comparison. results: the content of compare.json."""
    drawn = data_files.named([*_plots(results), *plot_frontiers(_series(folder, results))], set())
    data_files.write(folder, drawn)
    page = pages.render(
        "comparison.html", title=f"Comparison {folder.name}", results=results, command=scrubbed(command), plots=drawn,
        columns=columns(results), rates=[name for name in columns(results) if name in results["runs"][0]["intervals"]],
        samples=_samples(folder, results), environment=_environment(folder, results),
    )  # fmt: skip
    return pages.write(folder / "report.html", page)


def columns(results: dict[str, Any]) -> list[str]:
    """The measures of the table, the most informative first."""
    order = [*results["evals"], "preference_accuracy", "plain_accuracy", "kl", "answer_tokens", "trained_tokens",
             "cpu_seconds"]  # fmt: skip
    return [name for name in order if name in results["measures"]]


def _plots(results: dict[str, Any]) -> list[Plot]:
    values = {
        name: {
            entrant["label"]: entrant["measures"].get(name, {}).get("values", []) for entrant in results["algorithms"]
        }
        for name in results["measures"]
    }
    start = {name: score["value"] for name, score in results["start"].items()}
    drawn = [
        plots.dots(name, values[name], name, start=start.get(name), note=results["measures"][name])
        for name in columns(results) if name != "trained_tokens"
    ]  # fmt: skip
    for name in results["evals"]:
        for cost in ("kl", "cpu_seconds", "answer_tokens"):
            if cost in values:
                points = {label: list(zip(values[cost][label], ys, strict=False)) for label, ys in values[name].items()}
                drawn.append(plots.scatter(f"{name} against {cost}", points, cost, name, "Each dot is a run."))
    return [plot for plot in [*drawn, refusal_scatter(values, start)] if plot is not None]


def _series(folder: Path, results: dict[str, Any]) -> dict[str, Series]:
    """The metrics of every run, by its name."""
    return {row["run"]: Series(Run(folder / row["run"]).log_history) for row in results["runs"]}


def _samples(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Answers to the same prompts: of the initial model, and of the first seed of each entrant."""
    first = {row["label"]: row["run"] for row in reversed(results["runs"])}
    by_prompt: dict[str, dict[str, Any]] = {}
    for name in results["evals"][:1]:
        for label, run in first.items():
            for row in read_samples(Run(folder / run)):
                if row["eval"] == name:
                    entry = by_prompt.setdefault(json.dumps(row["prompt"]), {"prompt": row["prompt"], "answers": {}})
                    who = "start" if row["when"] == "before" else label
                    entry["answers"][who] = (answer_in(row), row.get("score"))
    rows = list(by_prompt.values())
    step = max(1, len(rows) // PROMPTS_SHOWN)
    return {"rows": rows[::step][:PROMPTS_SHOWN], "count": len(rows), "labels": ["start", *first]}


def _environment(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    return Run(folder / results["runs"][0]["run"]).read_json("environment.json") if results["runs"] else {}


def write_runs_page(folder: Path, comparison: dict[str, Any], runs: Sequence[Run]) -> Path:
    """Write report.html of finished runs into a folder. comparison: the result of `compare_runs`."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = runs_content(comparison, runs)
    taken: set[str] = set()
    shown["plots"] = {heading: data_files.named(of_it, taken) for heading, of_it in shown["plots"].items()}
    data_files.write(folder, [plot for of_it in shown["plots"].values() for plot in of_it])
    return pages.write(folder / "report.html", pages.render("runs.html", title="Runs compared", **shown))


def runs_content(comparison: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """What the template of runs side by side shows."""
    names = [run.name for run in runs]
    series = {run.name if names.count(run.name) == 1 else str(run.path): Series(run.log_history) for run in runs}
    drawn = {heading: of_it for heading, of_it in overlaid(series).items() if of_it}
    return {
        "comparison": comparison, "plots": drawn,
        "axes": {key: label for key, (label, _) in common_axes(series).items()},
    }  # fmt: skip


def overlaid(runs: dict[str, Series], least: int = 2) -> dict[str, list[Plot]]:
    """By heading: reward against distance, and a plot for each metric that at least `least` runs have."""
    by_heading = {"Reward": [*plot_frontiers(runs)]}
    axes = common_axes(runs)
    for name in dict.fromkeys(name for run in runs.values() for name in run.names if name not in NO_CURVE):
        lines = {label: run.of(name) for label, run in runs.items()}
        plot = plots.curves(name, lines, axes, CORE_METRICS.get(name.removeprefix("rollout/"), ""))
        if plot is not None and sum(bool(points) for points in lines.values()) >= least:
            by_heading.setdefault(heading_of(panel_of(name)[0]), []).append(plot)
    return by_heading
