"""Loading: from the name of a source to checked records of the kind an algorithm asks for, and a report.

Rows pass through the stages of `zoo.data.stages` and then through the conversion.

Every row is either kept or dropped, and every dropped row has a code, a row number and a reason. This much may be
dropped before it is an error:

* `strict`: nothing.
* Lines that cannot be read (E_JSON) mean a damaged file: at most 1 % of the rows, so none in a file of
  fewer than 100 rows.
* Bad rows of any sort: at most 20 % of the rows, or one row; and at least one row must be left.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.contract.registry import contributions, manager
from zoo.data.convert import convert
from zoo.data.formats import check_columns, detect, named_format, rename
from zoo.data.formats.shape import Format, Row, Sample
from zoo.data.kinds import KINDS, Record
from zoo.data.report import Report
from zoo.data.sources import Source, open_source
from zoo.data.sources.lines import Line, RawLine, parsed
from zoo.data.sources.named import parts_of
from zoo.data.sources.reading import PLAIN, Reading
from zoo.data.stages import first_lines, is_readable, mark_duplicates, readable, records_of
from zoo.errors import ZooError
from zoo.numbers import amount

UNREADABLE_SHARE = 0.01
BAD_SHARE = 0.20


@dataclass
class DataSet:
    """Records of one kind, and where they come from."""

    name: str
    kind: str
    source_kind: str
    """The kind of the source's own rows, before conversion."""
    records: list[Record]
    fingerprint: str
    format: str
    report: Report

    def __len__(self) -> int:
        return len(self.records)


def load(source: str, kind: str | Sequence[str], reading: Reading = PLAIN) -> DataSet:
    """Read a source as records of `kind`.

    Of several kinds the source's own is used if it is among them, else the first. Raises ZooError as the top of this
    module says.
    """
    opening = open_data(source, kind, reading)
    report, chosen, kind = opening.report, opening.format, opening.kind
    records = list(mark_duplicates(records_of(parsed(opening.lines), chosen, reading.columns, report), report))
    judge(report, len(records), reading.strict)
    report.notes.append(read_as(records[0], chosen))
    try:
        converted, note = convert(records, chosen.kind, kind)
    except ZooError as error:
        raise ZooError(f"{report.name}: {error.message}", hint=error.hint) from None
    complete(report, len(converted), note, facts_of(converted, kind), kind)
    return DataSet(report.name, kind, chosen.kind, converted, opening.source.fingerprint, chosen.name, report)


@dataclass
class Opening:
    """A source whose format is recognised, and whose lines are still to be read. kind: of the records to make."""

    source: Source
    lines: Iterator[Line | RawLine]
    format: Format
    kind: str
    report: Report


def open_data(source: str, kind: str | Sequence[str], reading: Reading = PLAIN) -> Opening:
    """Open a source and recognise its format. The arguments, and what is raised, are those of `load`."""
    kinds = [kind] if isinstance(kind, str) else list(kind)
    for name in kinds:
        if name not in KINDS:
            convert([], name, name)
    if reading.limit is not None and reading.limit < 1:
        raise ZooError(f"A limit of {reading.limit} rows leaves nothing.", hint="Give a limit of 1 or more.")
    chosen = named_format(reading.format) if reading.format else None
    wanted = chosen.kind if chosen else kinds[0]
    opened = open_source(source, wanted, reading)
    report = Report(opened.name, where=opened.where, notes=list(opened.notes), about=opened.about)
    first = itertools.islice(opened.lines, reading.limit)
    lines, chosen = find_format(first, reading.columns, chosen, opened, report, kinds)
    return Opening(opened, lines, chosen, chosen.kind if chosen.kind in kinds else kinds[0], report)


def complete(report: Report, count: int, note: str, facts: Mapping[str, int], kind: str) -> None:
    """Complete a report with the conversion (its note, and how many records it left) and the facts about the records.

    Raises ZooError if no record is left.
    """
    if not count:
        raise ZooError(f"{report.name}: {note} Nothing is left.", hint=f"Give data of kind '{kind}'.")
    report.notes += ([note] if note else []) + fact_notes(facts, count, kind)
    report.records = count


def load_records(
    source: str, kind: str | Sequence[str], split: str = "train", limit: int | None = None
) -> list[Record]:
    """The records of any source that `--data` takes, including those of plugins, in the form that `prepare` hooks take.

    Of several kinds the source's own is used if it is among them, else the first. Raises ZooError as `load` does.
    """
    named = contributions(manager(), "sources")
    return load(source, kind, Reading(split, limit=limit, named_sources=named)).records


def source_kind(source: str, reading: Reading = PLAIN) -> str:
    """The kind of a source's own rows, as their columns show it.

    For a named source, which may give several, it is the first of `kinds` that it has.
    """

    def kind_of(asked: str) -> str:
        opened = open_source(source, asked, reading)
        return find_format(opened.rows, reading.columns, None, opened, Report(opened.name))[1].kind

    try:
        return kind_of("demonstration")
    except ZooError:
        for kind in KINDS if parts_of(source)[0] in reading.named_sources else ():
            with contextlib.suppress(ZooError):
                return kind_of(kind)
        raise


def find_format(
    lines: Iterator[Any],
    columns: Mapping[str, str],
    chosen: Format | None,
    source: Source,
    report: Report,
    kinds: Sequence[str] = (),
) -> tuple[Iterator[Any], Format]:
    """All lines, parsed or not, and the format that the first of them have under the wanted names of columns; `chosen`
    if it is given.

    kinds: what the rows are wanted for, for errors. Raises ZooError where none of these can be read, for columns that
    there are not, and for rows of no known format.
    """
    head, lines = first_lines(lines)
    first = list(parsed(head))
    if not first:
        raise ZooError(f"{source.name} holds no rows.", hint="Check that the file was written to its end.")
    if not any(map(is_readable, first)):
        list(readable(first, report))
        judge(report, 0, strict=False)
    rows: list[Row] = [line.row for line in first if is_readable(line)]
    present = Sample(rows).columns
    check_columns(columns, present, source.name)
    if "row" in present:
        report.notes.append("The column 'row' is replaced by the number of the row.")
    if columns:
        rows = [rename(row, columns) for row in rows]
    return lines, chosen or detect(Sample(rows), source.name, kinds)


def judge(report: Report, kept: int, strict: bool, source: Report | None = None, share: float = BAD_SHARE) -> None:
    """Raise ZooError if more rows are bad than the rules at the top of this module allow.

    source: the report that knows where the rows are, if `report` is that of a later stage. share: the largest share of
    rows that may be bad.
    """
    source = source or report
    bad, unreadable = report.dropped, report.count("E_JSON")
    if not bad:
        return
    reason = f"{bad:,} of {amount(report.rows, 'row')} cannot be used"
    hint = "Correct or remove these rows"
    if strict:
        reason, hint = f"{reason}, and --strict allows none", hint + ", or leave out --strict."
    elif not kept:
        reason = f"none of the {amount(report.rows, 'row')} can be used"
        hint = "docs/data.md lists what a row must have; --format and --columns say how to read the file."
    elif unreadable > UNREADABLE_SHARE * report.rows:
        reason = f"{unreadable:,} of {amount(report.rows, 'line')} cannot be read"
        hint = "Correct or delete these lines: the file is damaged, or is not one JSON object per line."
    elif bad > max(1, share * report.rows):
        hint += "; if the file should be read differently, say how with --format NAME or --columns wanted=found."
    else:
        return
    raise ZooError(f"{source.name}: {reason}:\n" + "\n".join(report.first_errors(source)), hint=hint)


def read_as(record: Record, format: Format) -> str:
    """How the source was understood."""
    others = [name for name in record if name not in (*KINDS[format.kind].fields, "row")]
    extra = f"; other columns kept: {', '.join(others)}" if others else ""
    return f"Read as '{format.name}' ({format.kind}){extra}."


def facts_of(records: Sequence[Record], kind: str) -> Counter[str]:
    """Counts over the records that matter before training on them."""
    if kind == "feedback":
        return Counter(good=sum(record["label"] for record in records))
    if kind == "preference":
        longer = sum(_length(record["chosen"]) > _length(record["rejected"]) for record in records)
        return Counter(longer=longer, margins=sum("margin" in record for record in records))
    return Counter()


def fact_notes(facts: Mapping[str, int], count: int, kind: str) -> list[str]:
    """What `facts_of` counted over so many records, as sentences."""
    if kind == "feedback":
        good = facts["good"]
        note = f"Labels: {good:,} desirable, {count - good:,} undesirable."
        return [note + ("" if 0 < good < count else " All are equal, so there is nothing to learn to distinguish.")]
    if kind == "preference":
        margins = facts["margins"]
        return [
            f"The chosen answer is the longer one in {facts['longer'] / count:.0%} of the pairs (in characters).",
            *([f"{margins:,} of the {amount(count, 'pair')} have a margin."] if margins else []),
        ]
    return []


def _length(answer: object) -> int:
    if isinstance(answer, str):
        return len(answer)
    return sum(len(turn["content"]) for turn in answer) if isinstance(answer, list) else 0
