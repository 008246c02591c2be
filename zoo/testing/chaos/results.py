"""The results of trials: one JSON line each, added up over calls, and two tables."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.numbers import amount
from zoo.testing.chaos.trials import Trial


class Results:
    """Trials of this call and, with a file, of those before it."""

    def __init__(self, file: Path | None = None):
        self.file = file
        self.rows: list[dict[str, Any]] = _rows(file) if file is not None and file.is_file() else []
        self.now: list[dict[str, Any]] = []

    def add(self, trial: Trial) -> None:
        """Keep a trial. A line that a kill cut off is ended first."""
        row = dataclasses.asdict(trial)
        self.rows.append(row)
        self.now.append(row)
        if self.file is None:
            return
        with self.file.open("ab") as stream:
            if stream.tell() and not self.file.read_bytes().endswith(b"\n"):
                stream.write(b"\n")
            stream.write(json.dumps(row).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def kills(self, processes: int | None = None) -> list[dict[str, Any]]:
        """The hits that count, each with the aim of its trial."""
        return list(_kills(self.rows, processes))

    def phases(self, processes: int) -> Counter[str]:
        """Kills by phase."""
        return Counter(kill["phase"] for kill in self.kills(processes))

    @property
    def lost(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["lost"]]

    def tables(self) -> str:
        """Kills by phase and by aim, for each number of processes, as Markdown."""
        numbers = sorted({row["processes"] for row in self.rows})
        heads = [amount(number, "process", "processes") for number in numbers]
        parts = [
            _table(key, heads, {name: [counts[name] for counts in columns] for name in _names(columns)})
            for key, columns in (
                ("phase", [self.phases(number) for number in numbers]),
                ("aim", [Counter(kill["aim"] for kill in self.kills(number)) for number in numbers]),
            )
        ]  # fmt: skip
        faults = Counter(row["fault"] for row in self.rows)
        others = Counter(row["fault"] for row in self.rows if row["lost"])
        lines = [f"{fault}: {count} trials, {others[fault]} lost" for fault, count in sorted(faults.items())]
        return "\n\n".join([*parts, "\n".join(lines)])


def _kills(rows: Iterable[dict[str, Any]], processes: int | None) -> Iterable[dict[str, Any]]:
    for row in rows:
        if row["fault"] in ("kill", "damage") and processes in (None, row["processes"]):
            yield from ({**hit, "aim": row["aim"]} for hit in row["hits"] if hit["counts"] and not row["lost"])


def _names(columns: Sequence[Counter[str]]) -> list[str]:
    return sorted({name for counts in columns for name in counts})


def _table(key: str, heads: Sequence[str], rows: dict[str, list[int]]) -> str:
    totals = [sum(column) for column in zip(*rows.values(), strict=True)] if rows else [0] * len(heads)
    lines = [f"| {key} | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    lines += [f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows.items()]
    return "\n".join([*lines, f"| all | {' | '.join(map(str, totals))} |"])


def _rows(file: Path) -> list[dict[str, Any]]:
    """Whole lines only: a kill of this program may have cut one off."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
