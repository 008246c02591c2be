"""The results of a comparison: measures of each entrant with their spread over seeds, and differences of entrants."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.comparison.entrants import START
from zoo.comparison.measures import EXPLAINED
from zoo.comparison.plan import Plan, Planned
from zoo.comparison.tuning import told
from zoo.evals import Score
from zoo.evals.changes import averaged, change
from zoo.evals.kept_scores import with_cases
from zoo.numbers import amount, signed
from zoo.report.comparison_page import columns
from zoo.report.sections.warnings import displacement, length_warning
from zoo.runs import Run
from zoo.statistics import holm, mean_and_spread

SPREAD = "mean ± sample standard deviation over seeds"
COSTS = {
    "trained_tokens": "Tokens that the policy was trained on.",
    "generated_tokens": "Tokens of the answers that it wrote to learn from.",
    "cpu_seconds": "CPU seconds in the optimizer steps, over all threads of the process; on a GPU see seconds.",
    "seconds": "Wall-clock seconds in the optimizer steps.",
}


def gather(
    plan: Plan, runs: Sequence[tuple[Planned, Run]], start: dict[str, Score], start_run: Run, evals: list[str],
    failed: list[dict[str, str]], folder: Path, tuning: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The content of the table, the page and compare.json; also written to compare.json and runs.csv."""
    rows = [_row(planned, run) for planned, run in runs]
    labels = list(dict.fromkeys(planned.entrant.label for planned, _ in runs))
    explained = {name: _of_score(name, start[name]) for name in evals} | EXPLAINED | COSTS
    named = [name for name in explained if any(name in row["measures"] for row in rows)]
    results: dict[str, Any] = {
        "definition": plan.definition(),
        "spread": SPREAD,
        "budget": plan.budget,
        "measures": {name: explained[name] for name in named},
        "evals": evals,
        "start": {name: score.as_json() for name, score in start.items()},
        "algorithms": [_entrant(label, [row for row in rows if row["label"] == label], named) for label in labels],
        "runs": rows,
        "differences": _differences(labels, runs, start_run, {name: start[name] for name in evals}),
        "failed": failed,
        "notes": [*plan.notes, *(told(tuning) if tuning else [])],
        "tuning": tuning,
    }
    results["warnings"] = _warnings(results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_csv(folder / "runs.csv", rows, named)
    _write_tables(folder, results)
    return results


def _of_score(name: str, score: Score) -> str:
    return f"Held-out score: {name}." + ("" if score.higher_is_better else " Less is better.")


def _row(planned: Planned, run: Run) -> dict[str, Any]:
    """One run: its settings and all measures."""
    scores = run.read_json("measures.json")["scores"]
    tokens = run.summary["num_tokens"] if planned.entrant.cls.online() else planned.tokens
    costs = {"trained_tokens": float(tokens), **run.timing}
    return {
        "label": planned.entrant.label,
        "algo": planned.resolved.algo,
        "seed": planned.seed,
        "run": run.name,
        "steps": run.summary["steps"],
        "passes": planned.passes,
        "skipped_steps": run.summary.get("skipped_steps", 0),
        "measures": {**{name: score["value"] for name, score in scores.items()}, **costs},
        "intervals": {name: [score["low"], score["high"], score["n"]] for name, score in scores.items()},
    }


def _entrant(label: str, rows: list[dict[str, Any]], named: list[str]) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for name in named:
        values = [row["measures"][name] for row in rows if row["measures"].get(name) is not None]
        if values:
            mean, spread = mean_and_spread(values)
            measures[name] = {"mean": mean, "std": spread, "values": values}
    return {"label": label, "algo": rows[0]["algo"], "seeds": len(rows), "steps": rows[0]["steps"],
            "passes": rows[0]["passes"], "measures": measures}  # fmt: skip


def _differences(
    labels: list[str], runs: Sequence[tuple[Planned, Run]], start_run: Run, evals: dict[str, Score]
) -> list[dict[str, Any]]:
    """Each entrant against the start, and each pair of entrants, by evaluation; over prompts, averaged over seeds.

    chance: the p-value, corrected for the number of differences of a score; `better`: whether the second is better,
    None if the chance is above 5 %.
    """
    differences = []
    for name, score in evals.items():
        scores = {START: with_cases(start_run, "before")(score)}
        for label in labels:
            of_label = [run for planned, run in runs if planned.entrant.label == label]
            scores[label] = averaged([_measured(run, name) for run in of_label])
        found = {pair: change(scores[pair[0]], scores[pair[1]]) for pair in itertools.combinations(scores, 2)}
        known = {pair: one.chance for pair, one in found.items() if one.chance is not None}
        corrected = dict(zip(known, holm(list(known.values())), strict=True))
        for (first, second), one in found.items():
            chance = corrected.get((first, second))
            better = (one.value > 0) == score.higher_is_better if chance is not None and chance <= 0.05 else None
            facts = {**one.as_json(), "chance": chance, "better": better}
            differences.append({"score": name, "from": first, "to": second, **facts})
    return differences


def _measured(run: Run, name: str) -> Score:
    return with_cases(run, "after")(Score(**run.read_json("measures.json")["scores"][name]))


def _warnings(results: dict[str, Any]) -> list[str]:
    lines = []
    for entrant in results["algorithms"]:
        label, values = entrant["label"], entrant["measures"]

        def pair(name: str, values: dict[str, Any] = values) -> tuple[float | None, float | None]:
            return results["start"].get(name, {}).get("value"), values.get(name, {}).get("mean")

        lines += length_warning(f"Answers of {label}", *pair("answer_tokens"))
        lines += displacement(f"{label}: the chosen answers", *pair("chosen_logps"))
    for difference in results["differences"]:
        if difference["from"] == START and difference["better"] is False:
            change = f"{difference['score']} {signed(difference['change'])}"
            lines.append(f"{difference['to']} is worse than the start: {change}.")
    lines += [
        f"{row['run']} skipped {row['skipped_steps']} of {amount(row['steps'], 'step')}." for row in results["runs"]
        if row["skipped_steps"]
    ]  # fmt: skip
    return lines


def _write_csv(path: Path, rows: list[dict[str, Any]], named: list[str]) -> None:
    """One line per run, with the numbers of the plots."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "algo", "seed", "run", "steps", *named])
        for row in rows:
            first = [row[name] for name in ("label", "algo", "seed", "run", "steps")]
            writer.writerow([*first, *(row["measures"].get(name) for name in named)])


# -- tables for papers ---------------------------------------------------------------------------------------------


def _write_tables(folder: Path, results: dict[str, Any]) -> None:
    """table.csv and table.tex: a row for the start and for each entrant, with mean and deviation over seeds."""
    names = columns(results)
    start = {name: {"mean": score["value"], "std": None} for name, score in results["start"].items()}
    rows = [("start", start), *((entrant["label"], entrant["measures"]) for entrant in results["algorithms"])]
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", *(f"{name} {part}" for name in names for part in ("mean", "sd"))])
        for label, measures in rows:
            cells = [measures.get(name, {}).get(part) for name in names for part in ("mean", "std")]
            writer.writerow([label, *cells])
    lines = [
        "% Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{l{'r' * len(names)}}}",
        "\\toprule",
        _tex(["", *names]),
        "\\midrule",
        *(_tex([label, *(_mean_and_deviation(measures.get(name)) for name in names)]) for label, measures in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    (folder / "table.tex").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mean_and_deviation(value: dict[str, Any] | None) -> str:
    if value is None:
        return "--"
    return f"{value['mean']:.4g}" + (f" $\\pm$ {value['std']:.2g}" if value["std"] is not None else "")


def _tex(cells: Sequence[str]) -> str:
    """A line of a LaTeX table; what LaTeX would read as a command is escaped."""
    return " & ".join(re.sub(r"(?<!\\)([_%#&])", r"\\\1", cell) for cell in cells) + r" \\"
