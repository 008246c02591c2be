"""report.html of one run: what changed, curves, answers side by side, data, configuration, environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.contract import registry
from zoo.data.report import each_part
from zoo.errors import ZooError
from zoo.evals import mean_score, within_0_and_1
from zoo.evals.changes import Change, change_of_values
from zoo.evals.kept_scores import changes_of, read_samples
from zoo.options.config import TrainConfig
from zoo.report import data_files, pages
from zoo.report.plots.axes import FEWEST_CASES
from zoo.report.plots.panels import sections
from zoo.report.plots.series import Series
from zoo.report.plots.tables import Panel
from zoo.report.sections import answers
from zoo.report.sections.answer_lengths import ending_table, length_plots
from zoo.report.sections.distributions import case_plots, pair_plots
from zoo.report.sections.implicit_rewards import implicit_reward_plots
from zoo.report.sections.overoptimisation import plot_frontiers
from zoo.report.sections.refusals import refusal_plot
from zoo.report.sections.revisions import Step, read_steps, revision_panels, triptychs
from zoo.report.sections.reward_parts import reward_parts
from zoo.report.sections.step_times import slowest_steps
from zoo.report.sections.subsets import subset_panels
from zoo.report.sections.warnings import run_warnings
from zoo.runs import WARNINGS, Run

Cases = Mapping[str, list[float | None]]
"""The values of each metric for the held-out cases."""


def write_run_page(run: Run) -> Path:
    """Write report.html, report-data/ and warnings.json into a run's folder, from its files alone; returns the page."""
    shown = content(run)
    run.write_json(WARNINGS, {"warnings": shown["warnings"]})
    data_files.write(run.path, [plot for drawn in shown["plots"].values() for plot in drawn])
    return pages.write(run.path / "report.html", pages.render("run.html", **shown))


def content(run: Run) -> dict[str, Any]:
    """Everything that the template shows."""
    config, summary, samples = run.config, run.summary, read_samples(run)
    metrics, timings, steps = run.log_history, run.timings, read_steps(run)
    series = Series([*metrics, *timings])
    return {
        "title": run.name,
        "summary": summary,
        "config": config,
        "timing": run.timing | {f"seconds of {name}": took for name, took in run.part("timing.json", "stages").items()},
        "warnings": run_warnings(run, series, samples),
        "changes": changes(run),
        "plots": plots_of(run, series, samples, steps, slowest_steps(metrics, timings)),
        "axes": {key: label for key, (label, _) in series.axes().items()},
        "cases": answers.telling(answers.by_prompt(samples)),
        "fewest": FEWEST_CASES,
        "case_count": len(answers.by_prompt(samples)),
        "passing": answers.passing(samples),
        "moments": answers.moments(samples),
        "triptychs": triptychs(steps),
        "step_count": len(steps),
        "token_costs": token_costs(run.read_json("token-losses.json")),
        "data": each_part(run.read_json("data.json")),
        "options": options(config, run.read_json("origins.json")),
        "environment": run.read_json("environment.json"),
        "command": run.command,
    }


def token_costs(losses: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each answer of token-losses.json with its tokens in the first and in the last validation."""
    if not losses:
        return []
    moments = {f"step {losses[when]['step']}": losses[when]["answers"] for when in ("first", "last")}
    answers = zip(*moments.values(), strict=False)
    return [
        {"prompt": shown[0]["prompt"], "moments": [
            {"when": when, "tokens": answer["tokens"], "mean": _mean_cost(answer["tokens"])}
            for when, answer in zip(moments, shown, strict=False)
        ]}
        for shown in answers
    ]  # fmt: skip


def _mean_cost(tokens: Sequence[tuple[str, float | None]]) -> float | None:
    costs = [cost for _, cost in tokens if cost is not None]
    return sum(costs) / len(costs) if costs else None


def plots_of(
    run: Run, series: Series, samples: list[dict[str, Any]], steps: Sequence[Step], slowest: Panel | None
) -> dict[str, list[Panel]]:  # fmt: skip
    """Every plot and table of the page that has a CSV file, by heading."""
    meaning = explanations(str(run.config.get("algo", "")))
    mixed = {label for facts in run.read_json("data.json").values() for label in facts.get("parts", {})}
    curves, cases = sections(series, meaning, mixed), run.read_json("heldout.json")
    pairs = [*pair_plots(samples, rewards=run.summary.get("head") == "scalar"), *subset_panels(samples)]
    parts = reward_parts(series, str(run.config.get("reward") or ""))
    drawn: dict[str, list[Panel | None]] = {
        "Critiques and revisions": [*revision_panels(steps)],
        "Refusals": [refusal_plot(run.summary.get("scores", {}))],
        "Reward": [*plot_frontiers({run.name: series}), *curves.get("Reward", []), parts],
        **{heading: [*of_it] for heading, of_it in curves.items() if heading not in ("Reward", "Time")},
        "Answers": [*curves.get("Answers", []), *length_plots(cases, samples), ending_table(cases)],
        "Held-out cases": [*pairs, *implicit_reward_plots(cases), *case_plots(cases, meaning)],
        "Time": [*curves.get("Time", []), slowest],
    }
    panels = {heading: [panel for panel in of_it if panel is not None] for heading, of_it in drawn.items()}
    taken: set[str] = set()
    return {heading: data_files.named(of_it, taken) for heading, of_it in panels.items() if of_it}


def changes(run: Run) -> list[dict[str, Any]]:
    """A row per number measured before and after, with n and its 95 % interval if its cases are known."""
    rows = []
    summary, changed = run.summary, changes_of(run)
    before, after = summary.get("before", {}), summary.get("after", {})
    first, last = (run.read_json("heldout.json").get(when, {}).get("values", {}) for when in ("first", "last"))
    for name in (name for name in after if name in before):
        score = summary.get("scores", {}).get("after", {}).get(name) or _over_cases(last.get(name[len("val/") :], []))
        change = changed[name] if name in changed else _change_of_cases(first, last, name)
        rows.append({
            "name": name, "before": before[name], "after": after[name], "change": after[name] - before[name],
            "noise": change.noise, "around": change.around,
            "low": score.get("low"), "high": score.get("high"), "n": score.get("n"),
        })  # fmt: skip
        if name in _token_losses(run):
            rows.append(_perplexity(rows[-1]))
    return rows


def _change_of_cases(first: Cases, last: Cases, name: str) -> Change:
    """The change of a held-out metric, without an interval if its cases are not known."""
    sides = [cases.get(name[len("val/") :], []) for cases in (first, last)]
    return change_of_values(*sides)


def _over_cases(values: list[float | None]) -> dict[str, Any]:
    numbers = [value for value in values if value is not None]
    return mean_score("", numbers, within_0_and_1(numbers)).as_json() if len(numbers) > 1 else {}


def _token_losses(run: Run) -> set[str]:
    """Names of numbers that are −log π per token of given answers, so that their exponential is a perplexity."""
    names = {
        name for name, score in run.summary.get("scores", {}).get("after", {}).items()
        if "perplexity" in score.get("details", {})
    }  # fmt: skip
    try:
        algorithm = registry.load_algorithm(str(run.config.get("algo", "")))[1]
    except ZooError:
        return names
    # An algorithm that learns only from demonstrations minimises it, whatever its name.
    demonstrations = set(algorithm.kinds()) <= {"demonstration", "text"} and not algorithm.online()
    return names | ({"val/loss"} if demonstrations else set())


def _perplexity(row: dict[str, Any]) -> dict[str, Any]:
    """The exponential of a row, interval and all."""
    values = {
        key: None if row[key] is None else math.exp(min(row[key], 700.0)) for key in ("before", "after", "low", "high")
    }
    change = values["after"] - values["before"]  # type: ignore[operator]
    return {**row, **values, "name": f"perplexity, exp({row['name']})", "change": change, "noise": None, "around": ""}


def explanations(algo: str) -> dict[str, str]:
    """The algorithm's explanation of each metric; empty if it can no longer be loaded."""
    try:
        return dict(registry.load_algorithm(algo)[1].metrics)
    except ZooError:
        return {}


def options(config: dict[str, Any], origins: dict[str, str]) -> dict[str, list[tuple[str, Any, str]]]:
    """(name, value, origin) of the options that were `set`, and of the `others`, which are the core's defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    rows = [(name, value, origins.get(name, "")) for name, value in config.items()]
    own = [row for row in rows if row[0] not in defaults or row[1] != defaults[row[0]]]
    return {"set": own, "others": [row for row in rows if row not in own]}
