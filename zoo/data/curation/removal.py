"""What a curation command writes: the kept rows, and a report of what was removed and why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.report import Report
from zoo.data.row_errors import CODES, shorten
from zoo.errors import ZooError
from zoo.paths import typed_path, write_text

STORED_EXAMPLES = 20
LONGEST_EXAMPLE = 300
"""Longest example text in the report, in characters."""


@dataclass
class Removals:
    """Rows read, kept, and removed by reason: every removed row counts once, under the first reason that applies."""

    where: Callable[[int], str] = str
    rows: int = 0
    kept: int = 0
    reasons: dict[str, list[int]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def removed(self) -> int:
        return sum(map(len, self.reasons.values()))

    def remove(self, row: int, reason: str, why: str, text: str = "") -> None:
        """Count a row as removed. why: what is wrong with this row; text: the text that is wrong."""
        self.reasons.setdefault(reason, []).append(row)
        examples = self.examples.setdefault(reason, [])
        if len(examples) < STORED_EXAMPLES:
            examples.append({"row": row, "where": self.where(row), "why": why, "text": shorten(text, LONGEST_EXAMPLE)})

    def unusable(self, row: int, report: Report) -> None:
        """Count a row that training could not read either; the last problem in the report says why."""
        problem = next(problem for problem in reversed(report.problems) if problem.code.startswith("E_"))
        self.remove(row, problem.code, f"{problem.field}: {problem.message}")

    def as_json(self) -> dict[str, Any]:
        """Every removed row by its number, with examples."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "removed": self.removed,
            "removed_by_reason": {
                reason: {"count": len(rows), "rows": rows, "examples": self.examples[reason]}
                for reason, rows in self.by_size()
            },
            "notes": list(self.notes),
        }

    def by_size(self) -> list[tuple[str, list[int]]]:
        return sorted(self.reasons.items(), key=lambda item: -len(item[1]))


def meaning_of(reason: str) -> str:
    """The words for a code of the loader; other reasons speak for themselves."""
    return CODES.get(reason, "")


class KeptRows:
    """A file of rows that appears under its name only when it is complete; use it as a context manager.

    path: None writes nothing. The report goes beside it, as NAME.report.json. Raises ZooError for a file that exists
    already (unless `force`), for the source file itself, and for a file that cannot be written.
    """

    def __init__(self, path: Path, source: str, *, force: bool = False, rows: bool = True, dry_run: bool = False):
        self.path, self.report = path, path.with_suffix(".report.json")
        self.rows, self.dry_run = rows and not dry_run, dry_run
        self.converted = 0
        """Values that JSON cannot represent, written as text."""
        self._beside = path.with_name(f".tmp-{path.name}")
        self._check(source, force)

    def _check(self, source: str, force: bool) -> None:
        if self.path.suffix != ".jsonl":
            raise ZooError(
                f"--out {self.path}: rows are written as one JSON object per line.", "Name it like clean.jsonl."
            )
        if self.dry_run:
            return
        for place in (typed_path(source), typed_path(source.rpartition("@")[0] or source)):
            if place.is_file() and self.path.exists() and place.samefile(self.path):
                raise ZooError(
                    f"--out {self.path} is the source itself.", "Name another file: the source is not overwritten."
                )
            if place.is_dir() and self.path.resolve().is_relative_to(place.resolve()):
                raise ZooError(
                    f"--out {self.path} lies in the source {place}, and would be read as part of it.",
                    "Name a file outside of that folder.",
                )
        for file in [self.report, *([self.path] if self.rows else [])]:
            if file.is_dir():
                raise ZooError(f"{file} is a folder.", "Name another file with --out.")
            if file.exists() and not force:
                raise ZooError(f"{file} exists already.", "Name another file with --out, or overwrite it with --force.")

    def __enter__(self) -> KeptRows:
        self._file = None
        if not self.dry_run:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._beside.open("w", encoding="utf-8")
            except OSError as error:
                raise self._failed(error) from None
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    def write(self, row: Mapping[str, Any]) -> None:
        if self._file is None or not self.rows:
            return
        text = json.dumps(row, ensure_ascii=False, default=self._as_text)
        try:
            self._file.write(text + "\n")
        except OSError as error:
            raise self._failed(error) from None

    def _as_text(self, value: Any) -> str:
        self.converted += 1
        return value.isoformat() if hasattr(value, "isoformat") else str(value)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Give the files their names: first the report, then the rows."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            write_text(self.report, json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n")
            if self.rows:
                os.replace(self._beside, self.path)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> ZooError:
        return ZooError(f"{self.path} cannot be written: {error.strerror}.", "Name another file with --out.")
