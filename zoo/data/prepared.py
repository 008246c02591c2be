"""From a source to encoded records, in blocks: read → recognise → check → convert → encode → keep → deal.

Each block is done by `zoo.data.work`. What became of all of them, and the shares that are trained on and held out, is
made here from columns: it needs no record in memory.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from zoo.data.convert import CONVERSIONS
from zoo.data.duplicates import duplicates
from zoo.data.encoding.block import Numbers
from zoo.data.encoding.encode import ROWS_AT_ONCE, Encoded, check_options, split_note
from zoo.data.encoding.records import EncodedRecords
from zoo.data.encoding.template import ChatTemplate
from zoo.data.glance import estimated_rows
from zoo.data.key import store_key
from zoo.data.load import Opening, complete, judge, load, open_data
from zoo.data.pool import encoded_by
from zoo.data.problems import Problems, count_all
from zoo.data.report import STORED_PROBLEMS, Report
from zoo.data.seen import Seen
from zoo.data.shards import Counts, Shard, joined_blocks
from zoo.data.sources import Source
from zoo.data.sources.reading import PLAIN, Reading
from zoo.data.store import Kept, Store
from zoo.data.work import Work
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.processes import cores
from zoo.values.records import ChosenRecords, Records, Without

MOST_HELD_OUT = 2000
"""Prompts that a share of the data holds out at most: more would be scored again and again for no better estimate."""
LOOKED_AT = 10_000
"""Rows that are read of data which cannot be converted, to say what is wrong with it."""
STORED_BYTES = 1 << 20
"""Files of so many bytes are kept in the cache as soon as they are encoded."""
FEW_ROWS = 5000
"""With a --limit below this, rows are encoded in memory."""
SAID_EVERY = 10.0
"""Seconds between two lines about the progress."""
LOOK_EVERY = 1.0
"""Seconds between two looks at whether a file has changed."""
ROWS_FOR_A_WORKER = 10_000
"""Rows for which it is worth to start a process, which takes some seconds."""
MANY = 1 << 40
STOPPED = "What is encoded is kept: the same command goes on there."
AT_ONCE = 1 << 20
"""Hashes that are sorted at a time."""


Say = Callable[[str], None]


@dataclass
class Prepared:
    """The encoded records of a source, and what became of its rows.

    source_kind: the kind of the source's own rows; report: of reading; kept: the records in memory or in files.
    """

    name: str
    kind: str
    source_kind: str
    format: str
    fingerprint: str
    report: Report
    encoded: Encoded
    kept: Kept
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
        distinct, smallest = self.kept.prompts
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
    reading: Reading = PLAIN,
    *,
    max_length: int = 1024,
    long_rows: str = "drop",
    store: bool | None = None,
    workers: int | None = None,
    say: Say = lambda text: None,
) -> Prepared:
    """Read and encode a source. The other arguments are those of `zoo.data.encoding.encode.encode`.

    store: whether the encoded records are kept in the cache folder, None for files of STORED_BYTES or more; what is
    kept there is found again in any case, and if store is true all bytes of it are checked. workers: processes that
    encode what is kept, None for the number of cores; few rows are encoded in this process. Raises ZooError as loading
    and encoding do.
    """
    opening = open_data(source, kind, reading)
    if opening.format.kind != opening.kind and (opening.format.kind, opening.kind) not in CONVERSIONS:
        # It raises the refusal, after what else is wrong with the rows.
        load(source, kind, replace(reading, limit=min(reading.limit or LOOKED_AT, LOOKED_AT)))
    check_options(opening.kind, max_length, long_rows)
    work = Work(opening.format, reading.columns, opening.kind, template, max_length, long_rows)
    large = is_large(opening.source, reading.limit) if store is None else store
    place = store_of(opening.source, work, large, say, split=reading.split, limit=reading.limit)
    if place is None:
        kept = in_memory(opening, work, say)
    else:
        kept = stored(place, opening, work, workers or cores(), asked=bool(store))
    try:
        return prepared(opening, work, kept, reading.strict)
    except ZooError:
        if place is not None and kept.place is not None and not reading.strict:
            # Nothing is kept of what is refused, unless only this reading is so strict.
            with place.turn():
                place.remove()
        raise


def is_large(source: Source, limit: int | None) -> bool:
    """Whether a source is kept in the cache when nobody asks for it: files of STORED_BYTES, read for many rows."""
    many = limit is None or limit >= FEW_ROWS
    return many and sum(file.stat().st_size for file in source.files) >= STORED_BYTES


def store_of(source: Source, work: Work, wanted: bool, say: Say, **options: Any) -> Store | None:
    """The store of a source; None where it is not wanted and not there, or where there can be none.

    A source by name gives its rows as it likes: it is read again by every run.
    """
    if not source.has_content:
        return None
    store = Store(store_key(source.fingerprint, work, **options), say)
    return store if wanted or store.is_whole else None


def in_memory(opening: Opening, work: Work, say: Say, workers: int = 1) -> Kept:
    """All lines of a source, encoded in memory."""
    shards = list(once(encoded_shards(opening, work, say, workers=workers), work))
    refuse_changed(opening.source)
    return Kept(shards, _told(shards), smallest_prompts(shards), opening.source.parts)


def stored(store: Store, opening: Opening, work: Work, workers: int = 1, asked: bool = False) -> Kept:
    """What the store holds; where it is not whole, the rest is encoded first.

    asked: whether somebody asked for the store. All bytes of it are then checked, and it is an error if nothing can be
    written; else the rows are then encoded in memory.
    """
    work = replace(work, packed=True)
    if not asked and not store.is_whole and (why := store.refusal()):
        store.say(
            f"Nothing can be written to {store.folder} ({why}): the encoded rows stay in memory, for this run alone."
        )
        return in_memory(opening, work, store.say, workers)
    try:
        with store.turn():
            return store.read(asked) or _made(store, opening, work, workers)
    except OSError as error:
        raise _not_kept(store, opening.report.name, error) from error


def _not_kept(store: Store, name: str, error: OSError) -> ZooError:
    reason = os.strerror(error.errno) if error.errno else error
    hint = "Name another folder in ZOO_CACHE."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = (
            "Free some space there (`zoo cache clear --kind data` removes all rows that are encoded), or name another "
            "folder in ZOO_CACHE."
        )
    return ZooError(f"The encoded rows of {name} cannot be kept in {store.folder}: {reason}.", hint)


def _made(store: Store, opening: Opening, work: Work, workers: int) -> Kept:
    shards = store.begun()
    rows = sum(shard.counts.rows for shard in shards)
    if rows:
        store.say(f"Encoding goes on after {amount(rows, 'row')}, which {store.folder} holds.")
        next(itertools.islice(opening.lines, rows - 1, rows), None)
    try:
        made = once(encoded_shards(opening, work, store.say, rows, workers), work, shards, store.folder)
        store.write(made, shards)
        refuse_changed(opening.source)
    except SourceChanged:
        store.remove()
        raise
    except Exception:
        raise
    except BaseException:
        if shards:
            store.say(STOPPED)
        raise
    kept = Kept(shards, _told(shards), smallest_prompts(shards), opening.source.parts, store.folder)
    store.finish(kept, {"source": opening.report.name, "kind": work.kind, "fingerprint": opening.source.fingerprint})
    return kept


class SourceChanged(ZooError):
    """A source is not what it was when it was opened."""


def refuse_changed(source: Source) -> None:
    """Raises SourceChanged for a source whose content is not what it was when it was opened."""
    try:
        if not source.has_content or source.digest() == source.fingerprint:
            return
    except FileNotFoundError:
        # A file of it is gone.
        pass
    raise SourceChanged(f"{source.name} has changed while it was read.", "Start again when it is written to its end.")


class Watch:
    """Looks at the files of a source while they are read, at most once in LOOK_EVERY seconds."""

    def __init__(self, source: Source):
        self.source, self.looked = source, time.monotonic()
        self.states = source.states()

    def look(self) -> None:
        """Raises SourceChanged for files that have another content than at the beginning."""
        if time.monotonic() - self.looked < LOOK_EVERY:
            return
        self.looked = time.monotonic()
        if (states := self.source.states()) != self.states:
            refuse_changed(self.source)
            self.states = states


def encoded_shards(opening: Opening, work: Work, say: Say, done: int = 0, workers: int = 1) -> Iterator[Shard]:
    """The lines of a source, encoded block by block. done: rows that were encoded before."""
    pace, watch = Pace(opening.source, done, say), Watch(opening.source)
    blocks = iter(lambda: list(itertools.islice(opening.lines, ROWS_AT_ONCE)), [])
    for shard in spread(blocks, work, min(workers, pace.left() // ROWS_FOR_A_WORKER), say):
        yield shard
        pace.add(shard.counts.rows)
        watch.look()


def spread(blocks: Iterator[list[Any]], work: Work, workers: int, say: Say) -> Iterator[Shard]:
    """The shards of blocks, encoded by other processes if there are to be several."""
    if workers > 1:
        try:
            message = pickle.dumps(work, protocol=5)
        except Exception as error:
            say(f"Encoding in one process: this tokenizer cannot be handed to others ({error}).")
        else:
            return encoded_by(workers, message, blocks)
    return map(work.encoded, blocks)


def once(
    shards: Iterable[Shard], work: Work, before: Sequence[Shard] = (), folder: Path | None = None
) -> Iterator[Shard]:
    """Shards without the prompts of earlier ones, where a conversion keeps each prompt once.

    folder: where the hashes of many prompts lie.
    """
    if not work.once:
        yield from shards
        return
    seen = Seen(folder)
    for shard in before:
        seen.add(_prompts(shard))
    for shard in shards:
        prompts = _prompts(shard)
        there = seen.has(prompts)
        yield _without(shard, prompts[there], work) if there.any() else shard
        seen.add(prompts[~there])


def _prompts(shard: Shard) -> Numbers:
    """The hashes of the prompts of a shard, also of those that encoding drops."""
    return numpy.unique(numpy.concatenate([shard.prompts, shard.problems.keys]))


def _without(shard: Shard, again: Numbers, work: Work) -> Shard:
    """A shard without some prompts, by their hashes."""
    places = numpy.flatnonzero(~numpy.isin(shard.prompts, again))
    problems = shard.problems.select(numpy.flatnonzero(~numpy.isin(shard.problems.keys, again)))
    block = shard.select(places)
    counts = replace(
        shard.counts, converted=shard.counts.converted - len(again), statistics=work.measured(block)
    )  # fmt: skip
    return replace(shard, block=block, prompts=shard.prompts[places], problems=problems, counts=counts)


class Pace:
    """Says now and then how far encoding is. done: rows that were encoded before."""

    def __init__(self, source: Source, done: int, say: Say):
        self.source, self.before, self.done, self.say = source, done, done, say
        self.total: tuple[int | None, bool] | None = None
        self.began = self.printed = time.monotonic()

    def add(self, rows: int) -> None:
        """So many more rows are done."""
        self.done += rows
        if time.monotonic() - self.printed > SAID_EVERY:
            self.printed = time.monotonic()
            self.say(self.line())

    def left(self) -> int:
        """Rows that are still to be encoded, about; many where it is not known."""
        total = self._total()
        return MANY if total is None else max(0, total - self.done)

    def _total(self) -> int | None:
        self.total = self.total or estimated_rows(self.source)
        return self.total[0]

    def line(self) -> str:
        """`Encoding rows.jsonl: 20,000 of about 100,000 rows, 5,000 a second, 16 s left`."""
        rate = (self.done - self.before) / (time.monotonic() - self.began)
        total = self._total()
        if total is None or total < self.done:
            return f"Encoding {self.source.name}: {amount(self.done, 'row')}, {rate:,.0f} a second"
        of, left = f"{'' if self.total and self.total[1] else 'about '}{total:,}", (total - self.done) / rate
        return f"Encoding {self.source.name}: {self.done:,} of {of} rows, {rate:,.0f} a second, {left:,.0f} s left"


# -- what became of all rows ------------------------------------------------------------------------------------------


def prepared(opening: Opening, work: Work, kept: Kept, strict: bool) -> Prepared:
    """All shards of a source with their reports. Raises ZooError if too many rows are bad, or none is left."""
    shards, counts = kept.shards, _totals(kept.shards)
    report = opening.report
    opening.source.parts[:] = kept.parts
    report.rows, report.most = counts.rows, STORED_PROBLEMS
    count_all(report, kept.told)
    judge(report, counts.read, strict)
    conversion = CONVERSIONS.get((work.format.kind, work.kind))
    report.notes.append(counts.reading)
    note = conversion.note(counts.read, counts.converted) if conversion else ""
    complete(report, counts.converted, note, counts.facts, work.kind)
    encoded = _encoded(shards, counts, work)
    format, fingerprint = work.format, opening.source.fingerprint
    return Prepared(report.name, work.kind, format.kind, format.name, fingerprint, report, encoded, kept, work)


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
    notes = [*counts.notes, *split_note(counts.pieces[0], counts.pieces[1], work.max_length)]
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
    shards, encoded, work = whole.kept.shards, whole.encoded, whole.work
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
