"""The stages of a row on its way to a record: read, record, check, mark duplicates.

Each takes rows from the stage before and hands them on one by one, so that a file is passed through once; what it
drops or remarks on goes to the report. `zoo.data.load.load` is all of them and the conversion.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zoo.data.checks import check
from zoo.data.formats import rename, to_record
from zoo.data.formats.conversation import WARNINGS
from zoo.data.formats.message import unknown_keys
from zoo.data.formats.shape import Format
from zoo.data.kinds import Record
from zoo.data.report import Report
from zoo.data.row_errors import RowError
from zoo.data.sources.lines import Line

SAMPLE_ROWS = 200
"""First rows from which the format is detected."""


def first_lines(lines: Iterator[Any]) -> tuple[list[Any], Iterator[Any]]:
    """The first lines, to look at, and all lines."""
    first = list(itertools.islice(lines, SAMPLE_ROWS))
    return first, itertools.chain(first, lines)


def is_readable(line: Line) -> bool:
    """Whether nothing is wrong with a line that makes it unusable."""
    return not any(problem.code.startswith("E_") for problem in line.problems)


def readable(lines: Iterable[Line], report: Report) -> Iterator[Line]:
    """Lines that can be read. The report counts all lines, and what is wrong with them."""
    for line in lines:
        report.rows += 1
        for problem in line.problems:
            report.add(line.number, problem)
        if is_readable(line):
            yield line


def to_records(lines: Iterable[Line], format: Format, columns: Mapping[str, str], report: Report) -> Iterator[Record]:
    """Lines as records of the kind of their format, under the wanted column names."""
    for line in lines:
        try:
            record = to_record(rename(line.row, columns) if columns else line.row, line.number, format)
        except RowError as error:
            report.add(line.number, error)
            continue
        yield record


def checked(records: Iterable[Record], kind: str, report: Report) -> Iterator[Record]:
    """Records that can be used; the report gets the warnings that came with them."""
    for record in records:
        warnings = record.pop(WARNINGS, ())
        try:
            check(record, kind)
        except RowError as error:
            report.add(record["row"], error)
            continue
        for warning in warnings:
            report.add(record["row"], RowError(*warning))
        if keys := unknown_keys(record):
            report.add(record["row"], RowError("W_UNKNOWN_KEYS", "messages", f"keys: {', '.join(keys)}"))
            notes = [f"Messages have the key '{key}', which zoo does not know; the template gets it." for key in keys]
            report.notes += [note for note in notes if note not in report.notes]
        yield record


def mark_duplicates(records: Iterable[Record], report: Report) -> Iterator[Record]:
    """All records; the report gets those that are the same as an earlier one."""
    seen: dict[bytes, int] = {}
    for record in records:
        first = seen.setdefault(digest(record), record["row"])
        if first != record["row"]:
            report.add(record["row"], RowError("W_DUPLICATE", "row", f"is the same as row {first}"))
        yield record


def records_of(lines: Iterable[Line], format: Format, columns: Mapping[str, str], report: Report) -> Iterator[Record]:
    """The checked records of lines of a format."""
    return checked(to_records(readable(lines, report), format, columns, report), format.kind, report)


def digest(record: Record) -> bytes:
    """12 bytes that are equal for records that are the same but for their row number."""
    content = {name: value for name, value in record.items() if name != "row"}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
