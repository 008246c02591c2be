"""report.html of one run: what changed, curves, answers side by side, data, configuration, environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.config import TrainConfig
from zoo.errors import ZooError
from zoo.report import pages, plots
from zoo.report.warnings import run_warnings
from zoo.runs import Run
from zoo.training.report import paired_noise, sample_pairs

SAMPLES_SHOWN = 6
"""Answers on each side: those that gained most and those that lost most."""
NO_CURVE = {"step", "epoch", "num_tokens"}
CORE_METRICS = {
    "loss": "What is minimised, over the whole optimizer step.",
    "grad_norm": "Norm of the gradient before clipping.",
    "lr": "Learning rate.",
    "skipped": "1 where a step was left out for a loss or gradient that is no number.",
}


def write_run_page(run: Run) -> Path:
    """Write report.html into the folder of a run, from its files alone; returns its path."""
    return pages.write(run.path / "report.html", pages.render("run.html", **content(run)))


def content(run: Run) -> dict[str, Any]:
    """Everything that the template shows."""
    config, summary, pairs = run.config, run.summary, sample_pairs(run)
    command = run.path / "command.txt"
    return {
        "title": run.name,
        "summary": summary,
        "config": config,
        "timing": run.read_json("timing.json"),
        "warnings": run_warnings(run),
        "changes": changes(summary, pairs),
        "plots": curves_of(run.metrics, explanations(str(config.get("algo", "")))),
        "samples": chosen_samples(pairs),
        "sample_count": len(pairs),
        "data": run.read_json("data.json"),
        "options": options(config, run.read_json("origins.json")),
        "environment": run.read_json("environment.json"),
        "command": command.read_text(encoding="utf-8").strip() if command.is_file() else "",
    }


def changes(summary: dict[str, Any], pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per number that was measured before and after: evaluations with their interval, validation without."""
    rows = []
    before, after = summary.get("before", {}), summary.get("after", {})
    for name in (name for name in after if name in before):
        score = summary.get("scores", {}).get("after", {}).get(name, {})
        of_name = [(a["score"], b["score"]) for a, b in pairs if b["eval"] == name]
        rows.append({
            "name": name, "before": before[name], "after": after[name], "change": after[name] - before[name],
            "noise": paired_noise(of_name), "low": score.get("low"), "high": score.get("high"), "n": score.get("n"),
        })  # fmt: skip
    return rows


def explanations(algo: str) -> dict[str, str]:
    """What each metric means, as the algorithm says; nothing where it can no longer be loaded."""
    try:
        return {**CORE_METRICS, **registry.load_algorithm(algo)[1].metrics}
    except ZooError:
        return dict(CORE_METRICS)


def curves_of(metrics: list[dict[str, Any]], meaning: dict[str, str]) -> list[str]:
    """A plot per metric, training and held-out together; the chosen and the rejected side of one thing together."""
    names = list(dict.fromkeys(name.removeprefix("val/") for row in metrics for name in row))
    series: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for name in (name for name in names if name not in NO_CURVE):
        stem, _, side = name.rpartition("/")
        panel = stem if side in ("chosen", "rejected") else name
        of_panel = series.setdefault(panel, {})
        for found, label in ((name, "training"), (f"val/{name}", "held-out")):
            points = [(row["step"], row[found]) for row in metrics if isinstance(row.get(found), int | float)]
            if points:
                of_panel[f"{side}, {label}" if panel != name else label] = points
    drawn = []
    for panel, lines in series.items():
        note = meaning.get(panel) or meaning.get(f"{panel}/chosen", "")
        drawn.append(plots.curves(panel, lines, "step", note))
    return [plot for plot in drawn if plot]


def chosen_samples(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The answers whose score rose and fell most, or the first ones where there is nothing to choose by."""
    rows = [
        {"prompt": new["prompt"], "before": old["answer"], "after": new["answer"], "eval": new["eval"],
         "score_before": old.get("score"), "score_after": new.get("score"),
         "change": (new.get("score") or 0) - (old.get("score") or 0)}
        for old, new in pairs
    ]  # fmt: skip
    if len(rows) <= 2 * SAMPLES_SHOWN:
        return rows
    ranked = sorted(rows, key=lambda row: -row["change"])
    return ranked[:SAMPLES_SHOWN] + ranked[-SAMPLES_SHOWN:]


def options(config: dict[str, Any], origins: dict[str, str]) -> dict[str, list[tuple[str, Any, str]]]:
    """(name, value, where it came from): those that were `set` and the `others`, which are the core's defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    rows = [(name, value, origins.get(name, "")) for name, value in config.items()]
    own = [row for row in rows if row[0] not in defaults or row[1] != defaults[row[0]]]
    return {"set": own, "others": [row for row in rows if row not in own]}
