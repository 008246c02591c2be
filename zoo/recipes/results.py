"""The results of a reproduction: results.json and claims.csv in its folder, and the file next to the recipe."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.paths import write_text
from zoo.recipes import claims
from zoo.recipes.evaluate import cases_of, eval_values, scores_of, stage_value
from zoo.recipes.form import METRIC, Claim
from zoo.recipes.graph import Job
from zoo.recipes.schema import Recipe, Stage, Variant
from zoo.recipes.verdicts import LEVEL
from zoo.runs import environment
from zoo.secrets import scrubbed

RESULTS, CLAIMS = "results.json", "claims.csv"
CLOCKS = ("cpu_seconds", "seconds", "memory_gb")
"""Measures that differ between identical runs."""
MINUTES = {"minutes": "spent", "cpu_minutes": "spent_cpu"}
"""Totals over all stages in minutes, and the clock (in seconds per stage) of which each is the sum."""
Record = Callable[[Job], Mapping[str, Any]]


def gather(
    recipe: Recipe,
    variant: Variant,
    order: Sequence[Stage],
    jobs: Sequence[Job],
    record: Record,
    command: str,
    commit: str = "",
) -> dict[str, Any]:
    """The results of a reproduction, as JSON types.

    Everything except `made` is the same for every run, however often it was interrupted (unless a claim reads a clock).
    commit: of the recipe when its judging run was registered; empty if there is none.
    """
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    names = {stage.name for stage in order}
    values = {seed: {job.name: _values(job, variant, record) for job in jobs if job.seed == seed} for seed in seeds}
    scores = {seed: {job.name: cases_of(job) for job in jobs if job.seed == seed} for seed in seeds}
    measured = claims.Measured(values, lambda text: [name for name in variant.matching(text) if name in names], scores)
    judged = [claims.judge(claim, measured, seeds) for claim in variant.claims]
    other = recipe.full.claims if variant.name != "full" else ()
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "paper": {"text": recipe.paper.text, "version": recipe.paper.version},
        "variant": variant.name,
        "seeds": seeds,
        "verdict": claims.together(judged),
        "counts": claims.counted(judged),
        "level": LEVEL,
        "digest": variant.digest,
        "commit": commit,
        "claims": judged,
        "full_scale": [claims.untested(claim, claim.untested or f"needs {recipe.hardware}") for claim in other],
        "stages": [_stage(stage, [job for job in jobs if job.name == stage.name], values) for stage in order],
        "sweeps": _sweeps(order),
        "at": [_at(claim, measured, seeds) for claim in variant.claims if claim.at],
        **{key: getattr(variant.conditions, key, "") for key in ("tests", "caveat", "findings")},
        "about": recipe.about, "hardware": recipe.hardware, "deviations": recipe.deviations,
        "not_reported": recipe.not_reported, "notes": recipe.notes,
        "made": _made(jobs, record, command),
    }  # fmt: skip


def _values(job: Job, variant: Variant, record: Record) -> dict[str, float | None]:
    """The numbers of one stage: all of its evaluations, and other metrics that claims read."""
    values: dict[str, float | None] = {**eval_values(job)}
    for name in dict.fromkeys(name for claim in variant.claims for name in _read_by(claim, job, variant)):
        if name not in values:
            values[name] = stage_value(job, name, record(job))
    return values


def _read_by(claim: Claim, job: Job, variant: Variant) -> list[str]:
    """The metrics of a stage that a claim reads; with `at`, the other metric is read in addition."""
    metrics, at = [], None
    for text in claim.metrics:
        if match := METRIC.fullmatch(text):
            if job.name in variant.matching(match[1]):
                metrics.append(match[2])
            at = match[2] if claim.at is not None and text == claim.at.metric else at
    return [*metrics, *([at] if at and metrics else [])]


def _stage(stage: Stage, jobs: Sequence[Job], values: Mapping[int, Any]) -> dict[str, Any]:
    return {
        "name": stage.name,
        "kind": jobs[0].kind,
        "needs": list(stage.needs),
        "folder": stage.folder,
        "sweep_of": stage.sweep_of,
        "swept": stage.swept,
        "values": {str(job.seed): {k: v for k, v in values[job.seed][stage.name].items() if k not in CLOCKS}
                   for job in jobs},
        "intervals": {str(job.seed): {label: [score["low"], score["high"], score["n"]]
                                      for label, score in scores_of(job).items()} for job in jobs},
    }  # fmt: skip


def _sweeps(order: Sequence[Stage]) -> dict[str, list[str]]:
    sweeps: dict[str, list[str]] = {}
    for stage in order:
        if stage.sweep_of:
            sweeps.setdefault(stage.sweep_of, []).append(stage.name)
    return sweeps


def _at(claim: Claim, measured: claims.Measured, seeds: Sequence[int]) -> dict[str, Any]:
    """The points between which a claim was interpolated: {line: [[x, y], …]} by sweep and seed."""
    assert claim.at is not None
    x_name = claims.split_metric(claim.at.metric)[1]
    lines: dict[str, list[list[float]]] = {}
    y_name = ""
    for text in (claim.metric, claim.baseline, *(claim.orders or ())):
        if text is None or not (match := METRIC.fullmatch(text)) or not match[1].endswith("(*)"):
            continue
        y_name = match[2]
        for seed in seeds:
            pairs = [
                (measured.values[seed][stage].get(x_name), measured.values[seed][stage].get(y_name))
                for stage in measured.matching(match[1])
            ]
            points = sorted([x, y] for x, y in pairs if x is not None and y is not None)
            lines[f"{match[1].removesuffix('(*)')}, seed {seed}"] = points
    return {"says": claim.says, "x": x_name, "y": y_name, "value": claim.at.value, "lines": lines}


def _made(jobs: Sequence[Job], record: Record, command: str) -> dict[str, Any]:
    clocks = {
        f"seed-{job.seed}/{job.folder.name}": {
            **{name: value for name in CLOCKS if job.stage.algo and (value := stage_value(job, name, record(job)))},
            **{name: round(float(record(job).get(name, 0.0)), 3) for name in MINUTES.values()},
        }
        for job in jobs
    }
    facts = environment()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{
            name: round(sum(stage_clocks[clock] for stage_clocks in clocks.values()) / 60, 2)
            for name, clock in MINUTES.items()
        },
        "command": scrubbed(command),
        "versions": {"zoo": __version__, "python": facts["python"], **facts["packages"]},
        "processors": facts["processors"],
        "clocks": clocks,
    }


# -- files ---------------------------------------------------------------------------------------------------------


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """results.json and claims.csv."""
    write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / CLAIMS, claims_table(results))


def claims_table(results: Mapping[str, Any]) -> str:
    """The claims as CSV, one per line."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    seeds = [str(seed) for seed in results["seeds"]]
    texts, numbers = ("id", "says", "where", "metric", "rule", "verdict", "why"), ("mean", "sd", "low", "high")
    table.writerow([*("claim" if name == "says" else name for name in texts), *numbers,
                    *(f"seed {seed}" for seed in seeds)])  # fmt: skip
    for claim in [*results["claims"], *results["full_scale"]]:
        cells = ["" if claim[key] is None else claim[key] for key in (*texts, *numbers)]
        table.writerow(cells + (claim["values"] or [""] * len(seeds)))
    return stream.getvalue()


def stored(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file next to the recipe: claims with the values of each seed, and how they were made."""
    made = results["made"]
    short = [
        {key: claim[key] for key in ("id", "says", "where", "metric", "rule", "verdict", "why", "seeds", "values",
                                   "mean", "sd", "low", "high", "quantities", "more_seeds")}
        for claim in [*results["claims"], *results["full_scale"]]
    ]  # fmt: skip
    return {
        "recipe": results["recipe"], "variant": results["variant"], "verdict": results["verdict"],
        **{key: results[key] for key in ("counts", "level", "digest", "commit")}, "date": made["date"],
        "seeds": results["seeds"], **{name: made[name] for name in MINUTES}, "command": made["command"],
        "versions": {name: made["versions"][name] for name in ("zoo", "torch", "transformers", "python")},
        "claims": short,
    }  # fmt: skip
