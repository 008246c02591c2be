"""report.html of a comparison: the league table, plots, differences with their intervals, answers side by side.

And the page of finished runs beside each other: what differs in their options, their numbers, their curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.report import pages, plots
from zoo.report.run_page import CORE_METRICS, NO_CURVE
from zoo.runs import Run
from zoo.training.report import read_samples

PROMPTS_SHOWN = 8


def write_comparison_page(folder: Path, found: dict[str, Any], command: str = "") -> Path:
    """Write report.html beside the runs of a comparison. found: what compare.json holds."""
    page = pages.render(
        "comparison.html", title=f"Comparison {folder.name}", found=found, command=command, plots=_plots(found),
        columns=columns(found), rates=[name for name in columns(found) if name in found["runs"][0]["intervals"]],
        samples=_samples(folder, found), environment=_environment(folder, found),
    )  # fmt: skip
    return pages.write(folder / "report.html", page)


def columns(found: dict[str, Any]) -> list[str]:
    """The measures of the table, the most telling ones first."""
    order = [*found["evals"], "preference_accuracy", "plain_accuracy", "kl", "answer_tokens", "trained_tokens",
             "cpu_seconds"]  # fmt: skip
    return [name for name in order if name in found["measures"]]


def _plots(found: dict[str, Any]) -> list[str]:
    values = {
        name: {entrant["label"]: entrant["measures"].get(name, {}).get("values", []) for entrant in found["algorithms"]}
        for name in found["measures"]
    }
    start = {name: score["value"] for name, score in found["start"].items()}
    drawn = [
        plots.dots(name, values[name], name, start=start.get(name), note=found["measures"][name])
        for name in columns(found) if name != "trained_tokens"
    ]  # fmt: skip
    for name in found["evals"]:
        for cost in ("kl", "cpu_seconds", "answer_tokens"):
            if cost in values:
                points = {label: list(zip(values[cost][label], ys, strict=False)) for label, ys in values[name].items()}
                drawn.append(plots.scatter(f"{name} against {cost}", points, cost, name, "A dot is a run."))
    return [plot for plot in drawn if plot]


def _samples(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Answers to the same prompts: of the start, and of the first seed of each entrant."""
    first = {row["label"]: row["run"] for row in reversed(found["runs"])}
    by_prompt: dict[str, dict[str, Any]] = {}
    for name in found["evals"][:1]:
        for label, run in first.items():
            for row in read_samples(Run(folder / run)):
                if row["eval"] == name:
                    entry = by_prompt.setdefault(json.dumps(row["prompt"]), {"prompt": row["prompt"], "answers": {}})
                    who = "start" if row["when"] == "before" else label
                    entry["answers"][who] = (row["answer"], row.get("score"))
    rows = list(by_prompt.values())
    step = max(1, len(rows) // PROMPTS_SHOWN)
    return {"rows": rows[::step][:PROMPTS_SHOWN], "count": len(rows), "labels": ["start", *first]}


def _environment(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    return Run(folder / found["runs"][0]["run"]).read_json("environment.json") if found["runs"] else {}


def write_runs_page(folder: Path, found: dict[str, Any], runs: Sequence[Run]) -> Path:
    """Write report.html of finished runs into a folder. found: what `compare_runs` gives."""
    folder.mkdir(parents=True, exist_ok=True)
    page = pages.render("runs.html", title="Runs compared", found=found, plots=_overlaid(runs))
    return pages.write(folder / "report.html", page)


def _overlaid(runs: Sequence[Run]) -> list[str]:
    """A plot for each metric that several runs have, with a curve for each run."""
    metrics = {run.name if [r.name for r in runs].count(run.name) == 1 else str(run.path): run.metrics for run in runs}
    names = dict.fromkeys(name for rows in metrics.values() for row in rows for name in row if name not in NO_CURVE)
    drawn = []
    for name in names:
        series = {
            label: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
            for label, rows in metrics.items()
        }
        if sum(bool(points) for points in series.values()) > 1:
            drawn.append(plots.curves(name, series, "step", CORE_METRICS.get(name, "")))
    return [plot for plot in drawn if plot]
