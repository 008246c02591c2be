"""Problems of many rows as columns, and the report made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from zoo.data.report import SHOWN_ERRORS, STORED_PROBLEMS, Problem, Report
from zoo.libraries import columns

Numbers = numpy.ndarray[Any, numpy.dtype[Any]]
NOTHING = numpy.zeros(0, dtype=numpy.int64)


@dataclass
class Problems:
    """P problems in the order of their rows.

    keys: by which they are ordered or chosen, uint64 [P]; codes: int32 [P], positions in `names`; texts: field and
    message of each, as JSON.
    """

    keys: Numbers
    rows: Numbers
    codes: Numbers
    names: list[str]
    texts: Sequence[Any]

    @staticmethod
    def of(problems: Sequence[Problem], keys: Sequence[int]) -> Problems:
        """Problems with a key each."""
        names = sorted({problem.code for problem in problems})
        return Problems(
            numpy.array(keys, dtype=numpy.uint64),
            numpy.array([problem.row for problem in problems], dtype=numpy.int64),
            numpy.array([names.index(problem.code) for problem in problems], dtype=numpy.int32),
            names,
            [json.dumps([problem.field, problem.message]).encode() for problem in problems],
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Problem:
        text = self.texts[place]
        field, message = json.loads(text if isinstance(text, bytes) else text.as_py())
        return Problem(int(self.rows[place]), self.names[self.codes[place]], field, message)

    def select(self, places: Numbers) -> Problems:
        """Those at some positions."""
        chosen = [self.texts[int(place)] for place in places]
        return Problems(self.keys[places], self.rows[places], self.codes[places], self.names, chosen)

    @staticmethod
    def joined(parts: Sequence[Problems], shifts: Sequence[int] | None = None) -> Problems:
        """Several, one after another; each part's keys are raised by its shift."""
        names = sorted({name for part in parts for name in part.names})
        keys = [part.keys + numpy.uint64(shift) for part, shift in zip(parts, shifts or [0] * len(parts), strict=True)]
        codes = [
            numpy.array([names.index(name) for name in part.names], dtype=numpy.int32)[part.codes]
            if len(part) else part.codes for part in parts
        ]  # fmt: skip
        return Problems(
            _joined(keys, numpy.uint64), _joined([part.rows for part in parts]), _joined(codes, numpy.int32), names,
            [text for part in parts for text in part.texts],
        )  # fmt: skip

    def as_columns(self) -> dict[str, Any]:
        """The columns for a file."""
        texts = [text if isinstance(text, bytes) else text.as_py() for text in self.texts]
        return {
            "key": columns.numbers(self.keys), "row": columns.numbers(self.rows), "code": columns.numbers(self.codes),
            "text": columns.texts(texts),
        }  # fmt: skip

    @staticmethod
    def from_columns(table: dict[str, Any], names: list[str]) -> Problems:
        """The problems of a file, which stay there."""
        keys, rows, codes = (columns.array(table[name]) for name in ("key", "row", "code"))
        return Problems(keys, rows, codes, names, table["text"])


def _joined(arrays: Iterable[Numbers], dtype: Any = numpy.int64) -> Numbers:
    arrays = list(arrays)
    return numpy.concatenate(arrays) if arrays else numpy.zeros(0, dtype=dtype)


def count_all(report: Report, problems: Problems, where: Numbers | None = None) -> None:
    """Count problems in a report that keeps STORED_PROBLEMS at most. where: bool [P], those that count."""
    places = numpy.arange(len(problems)) if where is None else numpy.flatnonzero(where)
    if not len(places):
        return
    codes = problems.codes[places]
    counts = {name: int((codes == number).sum()) for number, name in enumerate(problems.names)}
    report.count_many({name: count for name, count in counts.items() if count})
    errors = numpy.array([name.startswith("E_") for name in problems.names])[codes]
    shown = [places[:STORED_PROBLEMS], places[errors][:SHOWN_ERRORS]]
    shown += [places[codes == number][:SHOWN_ERRORS] for number in range(len(problems.names))]
    for place in numpy.unique(numpy.concatenate(shown)):
        report.keep(problems[int(place)])
