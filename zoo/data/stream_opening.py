"""A stream is opened: its files found, its format recognised and its first rows encoded, as those of any source."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoo.data.convert import CONVERSIONS, convert
from zoo.data.encoding.encode import ROWS_AT_ONCE, check_options
from zoo.data.encoding.template import ChatTemplate
from zoo.data.formats import named_format
from zoo.data.glance import Glance
from zoo.data.load import Opening, find_format, judge
from zoo.data.prepared import Prepared, Say, in_memory, prepared
from zoo.data.report import Report
from zoo.data.sources import Source, is_on_hub
from zoo.data.sources.lines import parsed
from zoo.data.sources.mixture import Part
from zoo.data.sources.reading import PLAIN, Reading
from zoo.data.sources.streamed import stream_files
from zoo.data.stages import SAMPLE_ROWS, records_of
from zoo.data.streams import Files
from zoo.data.work import Work
from zoo.errors import ZooError

FIRST = ROWS_AT_ONCE
"""Rows that are looked at before the first step."""


def open_stream(
    source: str, kinds: str | Sequence[str], reading: Reading = PLAIN, number: int = 0
) -> tuple[Files, Opening]:
    """The files of a stream, and its lines in the order of the files' names. Raises ZooError.

    kinds: as for `zoo.data.load.open_data`; number: how many files stand before, in the row numbers.
    """
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    files = Files(source, stream_files(source, reading.split, reading.named_sources), number)
    opened = Source(source, reading.split, files.first(), lambda: files.fingerprint, has_content=False)
    report = Report(source, where=files.where)
    chosen = named_format(reading.format) if reading.format else None
    first = itertools.islice(opened.lines, reading.limit)
    lines, chosen = find_format(first, reading.columns, chosen, opened, report, wanted)
    return files, Opening(opened, lines, chosen, chosen.kind if chosen.kind in wanted else wanted[0], report)


def prepare_first(
    source: str, kinds: str | Sequence[str], template: ChatTemplate, reading: Reading = PLAIN, *,
    max_length: int = 1024, long_rows: str = "drop", number: int = 0, say: Say = lambda text: None,
) -> tuple[Files, Prepared]:  # fmt: skip
    """The files of a stream, and its first rows encoded: FIRST, or the limit of the reading.

    The other arguments are those of `open_stream` and `zoo.data.prepared.prepare`. Raises ZooError as these do.
    """
    reading = replace(reading, limit=reading.limit or FIRST)
    files, opening = open_stream(source, kinds, reading, number)
    if opening.format.kind != opening.kind and (opening.format.kind, opening.kind) not in CONVERSIONS:
        _converted(opening, [])
    check_options(opening.kind, max_length, long_rows)
    work = Work(opening.format, reading.columns, opening.kind, template, max_length, long_rows)
    return files, prepared(opening, work, in_memory(opening, work, say), reading.strict)


def glance_at_stream(source: str, kinds: Sequence[str], reading: Reading = PLAIN) -> Glance | None:
    """A first look at a stream, as `zoo.data.glance.glance` has one; None for a data set of the hub."""
    if is_on_hub(source, reading.named_sources):
        return None
    _, opening = open_stream(source, kinds, reading)
    report, chosen = opening.report, opening.format
    lines = list(parsed(itertools.islice(opening.lines, SAMPLE_ROWS)))
    records = list(records_of(lines, chosen, reading.columns, report))
    if reading.strict or not records:
        judge(report, len(records), reading.strict)
    if opening.kind != chosen.kind:
        records = _converted(opening, records)
    return Glance(source, opening.kind, chosen.name, records, None, False, report.notes, is_stream=True)


def check_parts(parts: Sequence[Part]) -> None:
    """Raises ZooError for a mixture of streams whose shares nobody knows, or for what counts all rows of a part."""
    for part in parts:
        if len(parts) > 1 and part.weight is None:
            raise ZooError(
                f"{part.source} has no weight, and a stream has no size that could be its share.",
                f"Write the share of each part: {' + '.join(f'0.5*{one.source!r}' for one in parts)}.",
            )
        if part.limit is not None or part.repeats != 1:
            raise ZooError(
                f"{part.source} has a limit or repeats, which count its rows, and --stream reads them as they come.",
                "Leave them out; the weights say how much is read of each part.",
            )


def _converted(opening: Opening, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return convert(records, opening.format.kind, opening.kind)[0]
    except ZooError as error:
        raise ZooError(f"{opening.report.name}: {error.message}", error.hint) from None
