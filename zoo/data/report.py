"""The report of loading: rows read, kept, and dropped by reason, with the numbers of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zoo.data.row_errors import CODES, RowError

SHOWN_ROWS = 10
SHOWN_ERRORS = 20
STORED_PROBLEMS = 1000


class Problem(NamedTuple):
    """A problem with one row. A row with a code that begins with E_ is dropped, with W_ it is kept."""

    row: int
    code: str
    field: str
    message: str


@dataclass
class Report:
    """What became of the rows of a source."""

    name: str
    where: Callable[[int], str] = str
    """`file:row` of a row number."""
    rows: int = 0
    """Rows read."""
    records: int = 0
    """Records after the conversion to the wanted kind."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _rows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: int, error: RowError) -> None:
        """Count a problem; report each dropped row exactly once with a code that begins with E_."""
        self.extend([Problem(row, error.code, error.field, error.message)])

    def extend(self, problems: Iterable[Problem]) -> None:
        """Count the problems of another report on the same rows."""
        for problem in problems:
            self.problems.append(problem)
            self._rows.setdefault(problem.code, []).append(problem.row)

    def count(self, code: str) -> int:
        """How many problems have this code."""
        return len(self._rows.get(code, ()))

    @property
    def dropped(self) -> int:
        """Rows that are not used."""
        return sum(len(rows) for code, rows in self._rows.items() if code.startswith("E_"))

    @property
    def kept(self) -> int:
        """Rows that are used."""
        return self.rows - self.dropped

    @property
    def duplicates(self) -> int:
        """Kept rows that are the same as an earlier one."""
        return self.count("W_DUPLICATE")

    def first_errors(self, source: Report | None = None) -> list[str]:
        """`file:row [CODE] field: message` for the first dropped rows; `source` is the report that can locate rows."""
        where = (source or self).where
        errors = [problem for problem in self.problems if problem.code.startswith("E_")]
        lines = [
            f"  {where(problem.row)} [{problem.code}] {problem.field}: {problem.message}"
            for problem in errors[:SHOWN_ERRORS]
        ]
        more = len(errors) - len(lines)
        return lines + ([f"  … and {more:,} more"] if more else [])

    def lines(self) -> list[str]:
        """The report as plain lines for printing."""
        lines = [f"{self.name}: {self.rows:,} rows read, {self.kept:,} kept, {self.dropped:,} dropped"]
        for code, rows in sorted(self._rows.items()):
            verb = "dropped" if code.startswith("E_") else "kept"
            numbers = ", ".join(map(str, rows[:SHOWN_ROWS])) + (", …" if len(rows) > SHOWN_ROWS else "")
            meaning = CODES.get(code, "see docs/data.md")
            lines.append(f"  {len(rows):,} {verb}: {code}, {meaning} (row {numbers})")
        return lines + [f"  {note}" for note in self.notes]

    def as_json(self) -> dict[str, Any]:
        """The report for data.json; at most the first 1,000 problems, all of them counted."""
        counts = {code: {"count": len(rows), "rows": rows[:SHOWN_ROWS]} for code, rows in sorted(self._rows.items())}
        return {
            "source": self.name,
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.dropped,
            "records": self.records,
            "duplicates": self.duplicates,
            "dropped_by_reason": {code: entry for code, entry in counts.items() if code.startswith("E_")},
            "warnings": {code: entry for code, entry in counts.items() if not code.startswith("E_")},
            "notes": list(self.notes),
            "problems": [list(problem) for problem in self.problems[:STORED_PROBLEMS]],
        }
