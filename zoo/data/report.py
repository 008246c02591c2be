"""The report of loading: rows read, kept, and dropped by reason, with the numbers of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zoo.data.row_errors import CODES, RowError
from zoo.numbers import amount

SHOWN_ROWS = 10
SHOWN_ERRORS = 20
STORED_PROBLEMS = 1000


class Problem(NamedTuple):
    """A problem with one row. A row with a code that begins with E_ is dropped, with W_ it is kept."""

    row: int
    code: str
    field: str
    message: str


def each_part(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What data.json says of each source, by its place: `train`, or `train chat` for a part of a mixture."""
    listed: dict[str, Any] = {}
    for place, of_place in facts.items():
        parts = of_place.get("parts")
        listed |= {f"{place} {label}": of_part for label, of_part in parts.items()} if parts else {place: of_place}
    return listed


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
    """In the order of the rows; at most `most` of them."""
    notes: list[str] = field(default_factory=list)
    about: Mapping[str, Any] = field(default_factory=dict)
    """More that data.json says of the source."""
    most: int | None = None
    """How many problems stay in memory, None for all; every one is counted."""
    spelled: Callable[[int], str] = str
    """How a row number is printed where the rows of a reason are listed."""
    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, list[Problem]] = field(default_factory=dict)
    """The first problems of each code."""
    _errors: list[Problem] = field(default_factory=list)
    """The first problems with a code that begins with E_."""

    def add(self, row: int, error: RowError) -> None:
        """Count a problem; report each dropped row exactly once with a code that begins with E_."""
        self.extend([Problem(row, error.code, error.field, error.message)])

    def extend(self, problems: Iterable[Problem]) -> None:
        """Count the problems of another report on the same rows."""
        for problem in problems:
            self._counts[problem.code] += 1
            self.keep(problem)

    def count_many(self, counts: Mapping[str, int]) -> None:
        """Count problems by their codes; `keep` gets the first of them."""
        self._counts.update(counts)

    def keep(self, problem: Problem) -> None:
        """Keep a problem that was counted, if it is one of the first."""
        if self.most is None or len(self.problems) < self.most:
            self.problems.append(problem)
        first = [self._first.setdefault(problem.code, [])]
        for kept in [*first, self._errors] if problem.code.startswith("E_") else first:
            if len(kept) < SHOWN_ERRORS:
                kept.append(problem)

    def state(self) -> dict[str, Any]:
        """What was counted so far, as JSON types."""
        first = {code: [list(problem) for problem in problems] for code, problems in self._first.items()}
        return {
            "rows": self.rows, "records": self.records, "problems": [list(problem) for problem in self.problems],
            "counts": dict(self._counts), "first": first, "errors": [list(problem) for problem in self._errors],
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what was counted."""
        self.rows, self.records = state["rows"], state["records"]
        self.problems = [Problem(*problem) for problem in state["problems"]]
        self._counts = Counter(state["counts"])
        self._first = {code: [Problem(*one) for one in problems] for code, problems in state["first"].items()}
        self._errors = [Problem(*problem) for problem in state["errors"]]

    def count(self, code: str) -> int:
        """How many problems have this code."""
        return self._counts[code]

    @property
    def dropped(self) -> int:
        """Rows that are not used."""
        return sum(count for code, count in self._counts.items() if code.startswith("E_"))

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
        lines = [
            f"  {where(problem.row)} [{problem.code}] {problem.field}: {problem.message}" for problem in self._errors
        ]
        more = self.dropped - len(lines)
        return lines + ([f"  … and {more:,} more"] if more else [])

    def first_of_each(self) -> list[Problem]:
        """The first problem of each code, by code."""
        return [problems[0] for _, problems in sorted(self._first.items())]

    def _first_rows(self, code: str) -> list[int]:
        return [problem.row for problem in self._first[code][:SHOWN_ROWS]]

    def lines(self) -> list[str]:
        """The report as plain lines for printing."""
        lines = [f"{self.name}: {amount(self.rows, 'row')} read, {self.kept:,} kept, {self.dropped:,} dropped"]
        for code, count in sorted(self._counts.items()):
            verb = "dropped" if code.startswith("E_") else "kept"
            numbers = ", ".join(map(self.spelled, self._first_rows(code))) + (", …" if count > SHOWN_ROWS else "")
            meaning = CODES.get(code, "see docs/data.md")
            lines.append(f"  {count:,} {verb}: {code}, {meaning} (row {numbers})")
        return lines + [f"  {note}" for note in self.notes]

    def as_json(self) -> dict[str, Any]:
        """The report for data.json; at most the first 1,000 problems, all of them counted."""
        counts = {
            code: {"count": count, "rows": self._first_rows(code)} for code, count in sorted(self._counts.items())
        }
        return {
            "source": self.name,
            **self.about,
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
