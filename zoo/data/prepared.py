"""From a source to encoded records, in blocks: read → recognise → check → convert → encode → keep → deal.

Each block is done by `zoo.data.work`. What became of all of them, and the shares that are trained on and held out, is
made here from columns: it needs no record in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from zoo.data.convert import CONVERSIONS
from zoo.data.duplicates import duplicates
from zoo.data.encoding.block import Numbers
from zoo.data.encoding.encode import ROWS_AT_ONCE, Encoded, check_options, split_note
from zoo.data.encoding.records import EncodedRecords
from zoo.data.encoding.template import ChatTemplate
from zoo.data.load import Opening, complete, judge, load, open_data
from zoo.data.problems import Problems, count_all
from zoo.data.report import STORED_PROBLEMS, Report
from zoo.data.shards import Counts, Shard, joined_blocks
from zoo.data.sources import NamedSources
from zoo.data.work import Work
from zoo.errors import ZooError
from zoo.values.records import ChosenRecords, Records, Without

MOST_HELD_OUT = 2000
"""Prompts that a share of the data holds out at most: more would be scored again and again for no better estimate."""
LOOKED_AT = 10_000
"""Rows that are read of data which cannot be converted, to say what is wrong with it."""
AT_ONCE = 1 << 20
"""Hashes that are sorted at a time."""


@dataclass
class Prepared:
    """The encoded records of a source, and what became of its rows.

    source_kind: the kind of the source's own rows; report: of reading; shards: in memory or in files.
    """

    name: str
    kind: str
    source_kind: str
    format: str
    fingerprint: str
    report: Report
    encoded: Encoded
    shards: Sequence[Shard]
    work: Work
    capped: bool = False
    """Whether the share that is held out would be larger without MOST_HELD_OUT."""

    def without_held_out(self, fraction: float) -> tuple[Prepared, Prepared]:
        """(for training, held out): all records of one prompt are on the same side.

        `fraction` of the different prompts is held out: at least one if there are two or more, and at most
        MOST_HELD_OUT. Which ones depends on their text, not on their order. Raises ZooError unless 0 <= fraction < 1.
        """
        if not 0 <= fraction < 1:
            raise ZooError(
                f"The held-out share is {fraction}, but must be at least 0 and below 1.",
                hint="Give for example 0.1 for a tenth of the prompts.",
            )
        distinct, smallest = smallest_prompts(self.shards)
        count = min(max(1, round(fraction * distinct)), distinct - 1, MOST_HELD_OUT) if fraction and distinct else 0
        if not count:
            return self, replace(self, encoded=replace(self.encoded, records=self.encoded.records[:0]))
        held, rest = _sides(self, smallest[count - 1])
        capped = count == MOST_HELD_OUT < round(fraction * distinct)
        return replace(self, encoded=rest), replace(self, encoded=held, capped=capped)


def prepare(
    source: str,
    kind: str | Sequence[str],
    template: ChatTemplate,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    named_sources: NamedSources | None = None,
    max_length: int = 1024,
    long_rows: str = "drop",
) -> Prepared:
    """Read and encode a source. The arguments are those of `zoo.data.load.load` and `zoo.data.encoding.encode.encode`.

    Raises ZooError as these do.
    """
    opening = open_data(
        source, kind, split=split, columns=columns, format=format, limit=limit, named_sources=named_sources
    )  # fmt: skip
    if opening.format.kind != opening.kind and (opening.format.kind, opening.kind) not in CONVERSIONS:
        # It raises the refusal, after what else is wrong with the rows.
        load(
            source, kind, split=split, columns=columns, format=format, limit=min(limit or LOOKED_AT, LOOKED_AT),
            strict=strict, named_sources=named_sources,
        )  # fmt: skip
    check_options(opening.kind, max_length, long_rows)
    work = Work(opening.format, columns or {}, opening.kind, template, max_length, long_rows)
    shards = list(once(encoded_shards(opening, work), work))
    return prepared(opening, work, shards, strict)


def encoded_shards(opening: Opening, work: Work) -> Iterator[Shard]:
    """The lines of a source, encoded block by block."""
    while lines := list(itertools.islice(opening.lines, ROWS_AT_ONCE)):
        yield work.encoded(lines)


def once(shards: Iterable[Shard], work: Work) -> Iterator[Shard]:
    """Shards without the prompts of earlier ones, where a conversion keeps each prompt once."""
    if not work.once:
        yield from shards
        return
    seen: set[int] = set()
    for shard in shards:
        prompts = {*shard.prompts.tolist(), *shard.problems.keys.tolist()}
        yield _without(shard, prompts & seen, work) if prompts & seen else shard
        seen |= prompts


def _without(shard: Shard, prompts: set[int], work: Work) -> Shard:
    """A shard without some prompts."""
    again = numpy.array(sorted(prompts), dtype=numpy.uint64)
    places = numpy.flatnonzero(~numpy.isin(shard.prompts, again))
    problems = shard.problems.select(numpy.flatnonzero(~numpy.isin(shard.problems.keys, again)))
    block = shard.select(places)
    counts = replace(
        shard.counts, converted=shard.counts.converted - len(prompts), statistics=work.measured(block)
    )  # fmt: skip
    return replace(shard, block=block, prompts=shard.prompts[places], problems=problems, counts=counts)


# -- what became of all rows ------------------------------------------------------------------------------------------


def prepared(opening: Opening, work: Work, shards: Sequence[Shard], strict: bool) -> Prepared:
    """All shards of a source with their reports. Raises ZooError if too many rows are bad, or none is left."""
    counts = Counts()
    for shard in shards:
        counts.merge(shard.counts)
    report = opening.report
    report.rows, report.most = counts.rows, STORED_PROBLEMS
    count_all(report, _told(shards))
    judge(report, counts.read, strict)
    conversion = CONVERSIONS.get((work.format.kind, work.kind))
    report.notes.append(counts.reading)
    note = conversion.note(counts.read, counts.converted) if conversion else ""
    complete(report, counts.converted, note, counts.facts, work.kind)
    encoded = _encoded(shards, counts, work)
    return Prepared(
        report.name, work.kind, work.format.kind, work.format.name, opening.source.fingerprint, report, encoded, shards,
        work,
    )  # fmt: skip


def _told(shards: Sequence[Shard]) -> Problems:
    """The problems of reading, those of a row before that it repeats another one."""
    shifts = numpy.cumsum([0, *(shard.counts.rows for shard in shards)])[:-1].tolist()
    told = Problems.joined([shard.told for shard in shards], shifts)
    again = duplicates([shard.digests for shard in shards], shifts)
    both = Problems.joined([told, again])
    return both.select(numpy.argsort(both.keys, kind="stable")) if len(again) else told


def _encoded(shards: Sequence[Shard], counts: Counts, work: Work) -> Encoded:
    """All encoded records."""
    records = EncodedRecords([shard.block for shard in shards], [shard.prompts for shard in shards])
    report = _report(shards, counts.converted, len(records))
    notes = [*counts.notes, *split_note(*counts.pieces, work.max_length)]
    return Encoded(work.kind, records, report, notes, counts.statistics)


def _report(
    shards: Sequence[Shard], rows: int, records: int, where: Callable[[Numbers], Numbers] | None = None
) -> Report:
    """The report of encoding. where: which prompts count, by their hashes."""
    report = Report("As tokens", rows=rows, records=records, most=STORED_PROBLEMS)
    for shard in shards:
        count_all(report, shard.problems, None if where is None else where(shard.problems.keys))
    return report


# -- what is held out -------------------------------------------------------------------------------------------------


def smallest_prompts(shards: Sequence[Shard]) -> tuple[int, Numbers]:
    """The number of different prompts, and the smallest hashes among them, ascending: at most MOST_HELD_OUT."""
    columns = [column for shard in shards for column in (shard.prompts, shard.problems.keys)]
    parts = -(-sum(map(len, columns)) // AT_ONCE)
    distinct, smallest = 0, numpy.zeros(0, dtype=numpy.uint64)
    for number in range(parts):
        low, high = (2**64 * (number + k) // parts for k in (0, 1))
        hashes = numpy.unique(numpy.concatenate([_between(column, low, high) for column in columns]))
        distinct += len(hashes)
        smallest = numpy.concatenate([smallest, hashes[: MOST_HELD_OUT - len(smallest)]])
    return distinct, smallest


def _between(column: Numbers, low: int, high: int) -> Numbers:
    return column[(column >= numpy.uint64(low)) & (column <= numpy.uint64(high - 1))]


def _sides(whole: Prepared, last: int) -> tuple[Encoded, Encoded]:
    """(held out, the rest): the prompts whose hashes are at most `last`, and the others."""
    shards, encoded, work = whole.shards, whole.encoded, whole.work
    places = [numpy.flatnonzero(shard.prompts <= last) for shard in shards]
    block = joined_blocks([shard.select(chosen) for shard, chosen in zip(shards, places, strict=True)])
    prompts = numpy.concatenate([shard.prompts[chosen] for shard, chosen in zip(shards, places, strict=True)])
    pieces = _pieces(block.rows) if work.kind == "text" else numpy.ones(len(block), dtype=numpy.int64)
    dropped = _report(shards, 0, 0, lambda keys: keys <= last).dropped
    rows = len(pieces) + dropped
    split = pieces[pieces > 1]
    statistics = work.measured(block)
    counts = _totals(shards)
    held = Encoded(
        work.kind, EncodedRecords([block], [prompts]), _report(shards, rows, len(block), lambda keys: keys <= last),
        [*counts.notes, *split_note(len(split), int(split.sum()), work.max_length)], statistics,
    )  # fmt: skip
    ends = numpy.cumsum([0, *(len(shard.block) for shard in shards)])
    held_places = numpy.concatenate([start + chosen for start, chosen in zip(ends, places, strict=False)])
    records: Records = ChosenRecords(encoded.records, Without(len(encoded.records), held_places))
    texts, made = counts.pieces[0] - len(split), counts.pieces[1] - int(split.sum())
    rest = Encoded(
        work.kind, records, _report(shards, counts.converted - rows, len(records), lambda keys: keys > last),
        [*counts.notes, *split_note(texts, made, work.max_length)], encoded.statistics.less(statistics),
    )  # fmt: skip
    return held, rest


def _totals(shards: Sequence[Shard]) -> Counts:
    counts = Counts()
    for shard in shards:
        counts.merge(shard.counts)
    return counts


def _pieces(rows: Numbers) -> Numbers:
    """The number of records of each row."""
    return numpy.unique(rows, return_counts=True)[1]
