"""The slowest steps, and their contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from zoo.report.plots.tables import Table

SHOWN = 5
FEWEST = 8
"""Measured steps; with fewer, none stands out."""
PARTS = ("training", "rollout", "generation", "reward")
Rows = Sequence[Mapping[str, Any]]


def slowest_steps(metrics: Rows, timings: Rows) -> Table | None:
    """Steps by their seconds, including the rollouts before them. If only every n-th step is logged, means over n.

    metrics, timings: the rows of metrics.jsonl and timing.jsonl. None with fewer than eight rows of times.
    """
    timed = [row for row in timings if any(f"seconds/{part}" in row for part in PARTS)]
    if len(timed) < FEWEST:
        return None
    logged = {row["step"]: row for row in metrics if "num_tokens" in row}
    measured, before = [], {"step": 0, "num_tokens": 0.0}
    for row in timed:
        step, of_step = row["step"], logged.get(row["step"], {})
        count = max(1, step - before["step"])
        parts = [row[f"seconds/{part}"] / count if f"seconds/{part}" in row else None for part in PARTS]
        tokens = of_step.get("num_tokens")
        trained = None if tokens is None else (tokens - before["num_tokens"]) / count
        # The time of a rollout includes its generation and scoring.
        longest = of_step.get("rollout/length_max")
        measured.append((step, sum(part or 0.0 for part in parts[:2]), *parts, trained, longest))
        before = {"step": step, "num_tokens": before["num_tokens"] if tokens is None else tokens}
    usual = median(row[1] for row in measured)
    slowest = sorted(measured, key=lambda row: -row[1])[:SHOWN]
    columns = ["step", "seconds", "× median", *PARTS, "tokens trained", "longest answer"]
    rows = [(row[0], row[1], row[1] / usual if usual else None, *row[2:]) for row in slowest]
    # Empty columns are left out.
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    note = f"Of {len(measured)}, by seconds per step: the optimizer step and the rollout before it. "
    note += "Generation and reward are parts of the rollout." if any(row[3] for row in measured) else ""
    picked = [[row[i] for i in kept] for row in rows]
    return Table("slowest steps", [columns[i] for i in kept], picked, note.strip())
