"""A first look at data: its first rows as an algorithm will get them, and the approximate number of rows.

It reads them with the same source, format and checks as a run: all rows of a small file, so that what a run refuses is
refused at once, and the first ones of other sources. It does not fetch a data set of the hub.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data.convert import convert
from zoo.data.formats import named_format
from zoo.data.kinds import KINDS, Record
from zoo.data.load import find_format, judge
from zoo.data.report import Report
from zoo.data.sources import Source, file_type, is_on_hub, open_source
from zoo.data.sources.lines import COMPRESSED
from zoo.data.sources.reading import PLAIN, Reading
from zoo.data.stages import SAMPLE_ROWS, records_of
from zoo.errors import ZooError

FEW_ROWS = 8
"""Enough rows to tell the kind, and no more than a world can give without training a network."""
TEXTS = (".jsonl", ".csv", ".tsv")
COUNTED = 2**26
"""Bytes of a text file in which lines are counted; for a larger file the count is extrapolated from this first part."""
READ = 2**22
"""Bytes of files that are read to their end."""


@dataclass
class Glance:
    """What the first rows tell. rows: the number of records, None if not counted; exact: whether it is no estimate."""

    name: str
    kind: str
    format: str
    records: list[Record]
    rows: int | None
    exact: bool
    notes: list[str]
    is_stream: bool = False

    @property
    def characters(self) -> float:
        """Mean number of characters in the texts of a record."""
        return sum(len(text) for text in self.texts()) / max(1, len(self.records))

    def sizes(self) -> list[tuple[int, int, int]]:
        """For each record the characters of its prompt and of its answers, and how many answers it has."""
        return [self._size(record) for record in self.records]

    def _size(self, record: Record) -> tuple[int, int, int]:
        prompt = sum(map(len, _texts(record.get("prompt"))))
        texts = {name: list(_texts(record.get(name))) for name in KINDS[self.kind].required if name != "prompt"}
        answers = sum(len(of) if name == "completions" else 1 for name, of in texts.items() if of)
        return prompt, sum(len(text) for of in texts.values() for text in of), answers

    def texts(self) -> Iterator[str]:
        """All texts of the records' own fields."""
        for record in self.records:
            for name in KINDS[self.kind].fields:
                yield from _texts(record.get(name))


def glance(source: str, kinds: Sequence[str], reading: Reading = PLAIN) -> Glance | None:
    """Look at a source; None for a data set of the hub.

    Raises ZooError for problems that further rows could not solve: no row can be used, the format or the kind does not
    fit, or a row is bad although the reading is strict.
    """
    if is_on_hub(source, reading.named_sources):
        return None
    limit, columns = reading.limit, reading.columns
    chosen = named_format(reading.format) if reading.format else None
    wanted = chosen.kind if chosen else kinds[0]
    few = FEW_ROWS if limit is None else min(limit, FEW_ROWS)
    try:
        opened = open_source(source, wanted, replace(reading, limit=few))
        report = Report(opened.name, where=opened.where, notes=list(opened.notes))
        lines, chosen = find_format(itertools.islice(opened.rows, limit), columns, chosen, opened, report, kinds)
        is_small = bool(opened.files) and _bytes(opened) <= READ
        first = list(lines if is_small else itertools.islice(lines, SAMPLE_ROWS))
        records = list(records_of(first, chosen, columns, report))
        if is_small or reading.strict or not records:
            judge(report, len(records), reading.strict)
        total, exact = (len(first), True) if is_small else estimated_rows(opened)
    except OSError as error:
        raise ZooError(f"{source} cannot be read: {error.strerror}.", "Check the path and its rights.") from None
    kind = chosen.kind if chosen.kind in kinds else kinds[0]
    try:
        converted, note = convert(records, chosen.kind, kind)
    except ZooError as error:
        raise ZooError(f"{opened.name}: {error.message}", error.hint) from None
    if not converted:
        raise ZooError(f"{opened.name}: {note} Nothing is left.", f"Give data of kind '{kind}'.")
    if total is not None:
        total = round(min(total, limit or total) * len(converted) / len(first))
    exact = exact and len(converted) == len(records) == len(first)
    return Glance(opened.name, kind, chosen.name, converted, total, exact, report.notes)


def estimated_rows(source: Source) -> tuple[int | None, bool]:
    """The number of rows of a source, and whether it is exact; None where it must be read for that."""
    if source.total is not None:
        return source.total, True
    if source.files and all(file_type(path) in TEXTS and path.suffix not in COMPRESSED for path in source.files):
        counts = [_lines(path) for path in source.files]
        return sum(count for count, _ in counts), all(exact for _, exact in counts)
    return None, False


def _bytes(source: Source) -> int:
    return sum(path.stat().st_size for path in source.files)


def _lines(path: Path) -> tuple[int, bool]:
    """The number of rows of a text file without its header, and whether it is exact rather than extrapolated."""
    size, counted, lines = path.stat().st_size, 0, 0
    last = b"\n"
    with path.open("rb") as file:
        while counted < COUNTED and (block := file.read(2**20)):
            counted, lines, last = counted + len(block), lines + block.count(b"\n"), block[-1:]
    lines += last != b"\n"
    if counted < size:
        return round(lines * size / counted), False
    return max(1, lines - (file_type(path) != ".jsonl")), True


def _texts(value: Any) -> Iterator[str]:
    """The texts in a field: the contents of messages, without roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item.get("content") if isinstance(item, dict) else item)
