"""Streams: the encoded records of files that are read as they come, in one order made from the seed and the files.

A pass reads the files in an order of its own. Blocks of their lines are encoded as those of a store
(`zoo.data.work`), and their records wait in a buffer, from which each example is drawn by the seed and its number. The
buffer runs empty at the end of a pass: each record is drawn once before any is drawn again. What a checkpoint holds is
the place of the next line and the records in the buffer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy
import torch

from zoo.data.convert import CONVERSIONS
from zoo.data.encoding.block import Block, Ragged
from zoo.data.encoding.encode import ROWS_AT_ONCE, split_note
from zoo.data.load import fact_notes, judge
from zoo.data.prepared import Say, spread
from zoo.data.problems import count_all
from zoo.data.report import STORED_PROBLEMS, Report
from zoo.data.shards import RAGGED, Counts, PackedRecords, Shard, joined_blocks
from zoo.data.sources.lines import Line, RawLine
from zoo.data.sources.streamed import StreamFile
from zoo.data.work import Work
from zoo.errors import ZooError
from zoo.numbers import amount

ROWS_OF_A_FILE = 10**10
"""The row numbers that each file of a stream has: those of the second file begin behind this one."""
ENOUGH = 1000
"""Rows from which the share of bad ones is judged."""
ONE = numpy.zeros(1, dtype=numpy.int32)
SAID_EVERY = 60.0
"""Seconds between two lines about what was read."""


class Place(NamedTuple):
    """Where reading stands: how many files of the pass are behind it; lines of the next one, and their end in it."""

    files: int = 0
    lines: int = 0
    end: int = 0


@dataclass(frozen=True)
class Files:
    """The files of a stream. number: how many files stand before them, in the row numbers of a mixture."""

    name: str
    files: Sequence[StreamFile]
    number: int = 0

    def where(self, row: int) -> str:
        """`file:row` of a row number."""
        number, line = divmod(row - 1, ROWS_OF_A_FILE)
        return f"{self.files[number - self.number].name}:{line + 1}"

    @property
    def before(self) -> int:
        """The row number before the first."""
        return self.number * ROWS_OF_A_FILE

    @property
    def prints(self) -> dict[str, str]:
        """What tells each file from a changed one, by its name."""
        return {file.name: file.print for file in self.files}

    def first(self) -> Iterator[Line | RawLine]:
        """All lines, in the order of the files' names."""
        return (line for line, _ in self.lines(range(len(self.files)), Place()))

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.prints, sort_keys=True)
        return f"stream:{hashlib.sha256(text.encode()).hexdigest()}"

    def lines(self, order: Sequence[int], place: Place) -> Iterator[tuple[Line | RawLine, Place]]:
        """The lines behind a place, each with the place behind it. order: of the files."""
        for position in range(place.files, len(self.files)):
            number = order[position]
            start = place if position == place.files else Place(position)
            shift = (self.number + number) * ROWS_OF_A_FILE
            for line, end in self.files[number].lines(start.lines, start.end):
                yield line._replace(number=shift + line.number), Place(position, line.number, end)


class Stream:
    """The records of files, one after another and without end, each as a block of one record.

    buffer: the fewest records among which the next one is drawn. workers: processes that encode ahead; 1 for none but
    this one. say: gets what was read, now and then.
    """

    def __init__(
        self, files: Files, work: Work, *, seed: int = 0, buffer: int = 10_000, strict: bool = False, workers: int = 1,
        say: Say = lambda text: None,
    ):  # fmt: skip
        self.files, self.work = files, replace(work, packed=True)
        self.seed, self.size, self.strict, self.workers, self.say = seed, buffer, strict, workers, say
        told: dict[str, Any] = {"where": files.where, "most": STORED_PROBLEMS, "spelled": files.where}
        self.report, self.encoding = Report(files.name, **told), Report("As tokens", **told)
        self.counts = Counts()
        self.passes = self.drawn = self.came = 0
        """Passes that are over; records that were drawn; records that came in this pass."""
        self.place: Place | None = Place()
        """Where the next block begins; None when all files of the pass are read."""
        self._buffer: list[Block] = []
        self._shards: Generator[tuple[Shard, Place]] | None = None
        self._of_a_pass = 0
        self._said = time.monotonic()

    def draw(self) -> Block:
        """The next record. Raises ZooError where a pass has none, and for files that are damaged."""
        self._fill()
        if not self._buffer:
            self._begin_again()
            self._fill()
        place = _drawn(self.seed, self.drawn, len(self._buffer))
        self.drawn += 1
        self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
        return self._buffer.pop()

    def close(self) -> None:
        """End the processes that encode ahead."""
        if self._shards is not None:
            self._shards.close()

    def epoch(self) -> float:
        """Passes, with the part of the one that goes on as soon as it is known how long a pass is."""
        of_this = self.came - len(self._buffer)
        return self.passes + (of_this / self._of_a_pass if self._of_a_pass else 0.0)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while len(self._buffer) < self.size and self.place is not None:
            if self._shards is None:
                self._shards = self._encoded(self.place)
            shard, place = next(self._shards, (None, None))
            if shard is None:
                self._end_pass()
                return
            self.place = place
            self._add(shard)

    def _encoded(self, place: Place) -> Generator[tuple[Shard, Place]]:
        """The blocks of the pass behind a place, encoded, each with the place behind it."""
        lines, ends = self.files.lines(self._order(), place), deque[Place]()

        def blocks() -> Iterator[list[Line | RawLine]]:
            while block := list(itertools.islice(lines, min(ROWS_AT_ONCE, self.size))):
                ends.append(block[-1][1])
                yield [line for line, _ in block]

        for shard in spread(blocks(), self.work, self.workers, self.say):
            yield shard, ends.popleft()

    def _order(self) -> list[int]:
        """The files of this pass, by their numbers."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.passes)
        order: list[int] = torch.randperm(len(self.files.files), generator=generator).tolist()
        return order

    def _add(self, shard: Shard) -> None:
        self._buffer += [alone(shard.block, place) for place in range(len(shard.block))]
        self.came += len(shard.block)
        if not self.passes:
            self._count(shard)

    def _count(self, shard: Shard) -> None:
        """What became of the rows of the first pass."""
        self.counts.merge(shard.counts)
        self.report.rows, self.report.records = self.counts.rows, self.counts.converted
        count_all(self.report, shard.told)
        self.encoding.rows, self.encoding.records = self.counts.converted, self.came
        count_all(self.encoding, shard.problems)
        self._judge(enough=self.counts.rows >= ENOUGH)
        if time.monotonic() - self._said > SAID_EVERY:
            self._said = time.monotonic()
            self.say(self.line())

    def _judge(self, enough: bool) -> None:
        """Raises ZooError where more rows are bad than may be."""
        if self.strict or enough:
            judge(self.report, self.counts.read, self.strict)
        if self.strict:
            judge(self.encoding, self.encoding.records, True, self.report)

    def _end_pass(self) -> None:
        self.place, self._shards = None, None
        self._of_a_pass = self.came
        if self.passes:
            return
        self._judge(enough=True)
        if not self.came:
            raise ZooError(
                f"No row of {self.files.name} can be used.",
                "`zoo data` with --stream shows its first rows; --max-length and --long-rows cut may help.",
            )
        self.say(f"{self.line()}. That is all of it; the next pass reads it in another order.")

    def _begin_again(self) -> None:
        self.passes += 1
        self.place, self.came = Place(), 0

    def line(self) -> str:
        """`shards/*.jsonl: 120,000 rows read, 1,000 dropped, 119,000 records`."""
        dropped = self.report.dropped + self.encoding.dropped
        rows = self.report.rows
        records = amount(self.encoding.records, "record")
        return f"{self.files.name}: {amount(rows, 'row')} read, {dropped:,} dropped, {records}"

    def lines(self) -> list[str]:
        """What became of all rows so far, for printing."""
        encoding = self.encoding.lines() if self.encoding.problems else []
        again = [f"  Read {self.passes:,} times, and begun again."] if self.passes else []
        return [*self.report.lines(), *encoding, *again]

    # -- what became of the rows -------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What data.json says of the stream so far."""
        counts, encoded = self.counts, {**self.encoding.as_json(), **self.counts.statistics.measured()}
        split = split_note(counts.pieces[0], counts.pieces[1], self.work.max_length)
        return {
            "fingerprint": self.files.fingerprint, "format": self.work.format.name, **self.report.as_json(),
            "notes": self._notes(), "encoded": {**encoded, "notes": [*counts.notes, *split]},
            "stream": {"shuffle_buffer": self.size, "passes": self.passes, "drawn": self.drawn},
            "files": self.files.prints,
        }  # fmt: skip

    def _notes(self) -> list[str]:
        """How the rows were understood."""
        work, counts = self.work, self.counts
        conversion = CONVERSIONS.get((work.format.kind, work.kind))
        notes = [conversion.note(counts.read, counts.converted)] if conversion else []
        if work.once:
            notes.append(f"A prompt is kept once among {amount(min(ROWS_AT_ONCE, self.size), 'row')}, not among all.")
        facts = fact_notes(counts.facts, counts.converted, work.kind) if counts.converted else []
        return [*self.report.notes, *filter(None, [counts.reading]), *notes, *facts]

    # -- the state of a checkpoint -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the stream stands, in types that load without unpickling code."""
        return {
            "numbers": [self.passes, self.drawn, self.came, self._of_a_pass],
            "place": None if self.place is None else list(self.place), "buffer": stored(self._buffer),
            "counts": json.dumps([self.counts.as_json(), self.report.state(), self.encoding.state()]),
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.passes, self.drawn, self.came, self._of_a_pass = state["numbers"]
        self.place, self._shards = None if state["place"] is None else Place(*state["place"]), None
        self._buffer = restored(state["buffer"])
        counts, report, encoding = json.loads(state["counts"])
        self.counts = Counts.from_json(counts)
        self.report.load_state(report)
        self.encoding.load_state(encoding)


def _drawn(seed: int, number: int, among: int) -> int:
    """Which of so many records is the one with this number: by the seed and the number alone."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % among


# -- records as blocks of their own, and as tensors ------------------------------------------------------------------


def alone(block: Block, place: int) -> Block:
    """One record of a block, which keeps nothing of the others in memory."""
    ragged: dict[str, Any] = {}
    for name in RAGGED:
        row = getattr(block, name).row(place).copy()
        ragged[name] = Ragged(row, numpy.array([0, len(row)]))
    numbers = {name: column[[place]] for name, column in block.numbers.items()}
    records = block.records
    assert isinstance(records, PackedRecords)
    text = PackedRecords([records.text(place)], ONE)
    return Block(block.kind, block.rows[[place]], **ragged, numbers=numbers, records=text, problems=[], count=1)


def stored(records: Sequence[Block]) -> dict[str, Any] | None:
    """Blocks of one record each, as tensors; None for none."""
    if not records:
        return None
    block = joined_blocks(records)
    columns = {name: [_tensor(part) for part in getattr(block, name)] for name in RAGGED}
    numbers = {name: _tensor(block.numbers[name]) for name in sorted(block.numbers)}
    texts = [record.records.texts[0] for record in records]  # type: ignore[attr-defined]
    ends = numpy.cumsum([0, *map(len, texts)], dtype=numpy.int64)
    columns["records"] = [_tensor(numpy.frombuffer(b"".join(texts), dtype=numpy.uint8)), _tensor(ends)]
    return {"kind": block.kind, "rows": _tensor(block.rows), "numbers": numbers, **columns}


def restored(state: Mapping[str, Any] | None) -> list[Block]:
    """The blocks that were stored."""
    if state is None:
        return []
    names = (*RAGGED, "records")
    columns: dict[str, Any] = {name: Ragged(*(part.numpy() for part in state[name])) for name in names}
    texts, count = columns.pop("records"), len(state["rows"])
    records: Any = PackedRecords([texts.row(place).tobytes() for place in range(count)], numpy.arange(count))
    numbers = {name: column.numpy() for name, column in state["numbers"].items()}
    rows = state["rows"].numpy()
    block = Block(state["kind"], rows, **columns, numbers=numbers, records=records, problems=[], count=count)
    return [alone(block, place) for place in range(count)]


def _tensor(column: Any) -> torch.Tensor:
    return torch.from_numpy(numpy.array(column))
