"""Compares finished runs: the options that differ, and the numbers with their differences from the first run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.evals import Score
from zoo.evals.changes import change
from zoo.evals.kept_scores import scores_of
from zoo.runs import Run

NAMES_ONLY = ("name", "out")
VALUES = ("value", "low", "high", "n")
NOT_COMPARED = ("step", "epoch")
ALIKE = ("lr", "num_tokens")
"""Metrics that mean the same in runs of all algorithms, as times and speeds do."""


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """The differences between runs, as JSON types. Raises ZooError for fewer than two runs."""
    if len(runs) < 2:
        raise ZooError("One run cannot be compared.", "Name a second run: zoo compare RUN RUN")
    configs = [run.config for run in runs]
    names = [name for name in dict.fromkeys(name for config in configs for name in config) if name not in NAMES_ONLY]
    options = {name: [config.get(name) for config in configs] for name in names if _is_everywhere_or_set(name, runs)}
    return {
        "runs": [{"name": run.name, "path": str(run.path), "status": run.status} for run in runs],
        "options": {name: values for name, values in options.items() if any(v != values[0] for v in values)},
        "same_data": len({_fingerprint(run) for run in runs}) == 1,
        "same_algorithm": len({config.get("algo") for config in configs}) == 1,
        "scores": _scores(runs),
        "metrics": _metrics(runs),
    }


def _is_everywhere_or_set(name: str, runs: Sequence[Run]) -> bool:
    """Whether all runs have an option, or one of them sets it explicitly.

    Defaults of options that only one algorithm has add nothing to the algorithms' names.
    """
    having = [run for run in runs if name in run.config]
    origins = [run.read_json("origins.json").get(name, "") for run in having]
    return len(having) == len(runs) or any(not origin.startswith("default") for origin in origins)


def _fingerprint(run: Run) -> str:
    return str(run.part("data.json", "train").get("fingerprint"))


def _scores(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The evaluations made after training: values with intervals, and differences from the first run."""
    measured = [scores_of(run, "after") for run in runs]
    rows = []
    for name in dict.fromkeys(name for scores in measured for name in scores):
        scores = [of_run.get(name) for of_run in measured]
        values = [{key: getattr(score, key) for key in VALUES} if score else None for score in scores]
        differences = [_change(scores[0], score) for score in scores[1:]]
        rows.append({"name": name, "values": values, "differences": [None, *differences]})
    return rows


def _change(first: Score | None, second: Score | None) -> dict[str, Any] | None:
    return change(first, second).as_json() if first and second else None


def _metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The last value of every metric that at least two runs have, and its difference from the first run's.

    Algorithms have losses and metrics of their own, whose differences say nothing: there is none.
    """
    last: list[dict[str, Any]] = []
    alike, algorithms = {*ALIKE}, [run.config.get("algo") for run in runs]
    for run in runs:
        values: dict[str, Any] = {}
        for row in run.log_history:
            values.update({name: value for name, value in row.items() if isinstance(value, int | float)})
        alike |= run.timing.keys()
        last.append({**{k: v for k, v in values.items() if k not in NOT_COMPARED}, **run.timing})
    rows = []
    for name in dict.fromkeys(name for values in last for name in values):
        row_values = [values.get(name) for values in last]
        if sum(value is not None for value in row_values) > 1:
            deltas = [
                _difference(value, row_values[0]) if algo == algorithms[0] or name in alike else None
                for value, algo in zip(row_values[1:], algorithms[1:], strict=True)
            ]
            rows.append({"name": name, "values": row_values, "deltas": [None, *deltas]})
    return rows


def _difference(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first
