"""Shards: what became of consecutive rows of a source. One lies in memory, or in files that are memory-mapped."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from zoo.data.checksums import (
    StoredBlock,
    check_columns,
    check_file,
    column_sums,
    file_sums,
    opened,
    record_sums,
    sealed,
)
from zoo.data.encoding.block import Block, Numbers, Ragged
from zoo.data.encoding.statistics import Statistics
from zoo.data.kinds import Record
from zoo.data.plain import as_json, from_json, marked
from zoo.data.problems import Problems
from zoo.libraries import columns
from zoo.paths import write_text

RAGGED = ("tokens", "answers", "spans", "step_ends")


@dataclass
class Counts:
    """What is counted of rows. Counts of consecutive rows can be merged."""

    rows: int = 0
    read: int = 0
    """Checked records, before the conversion."""
    converted: int = 0
    """Records after the conversion."""
    reading: str = ""
    """How the first record was understood."""
    facts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """What the chat template decided for all rows."""
    pieces: list[int] = field(default_factory=lambda: [0, 0])
    """Texts that were split, and what they became."""
    statistics: Statistics = field(default_factory=Statistics)

    def merge(self, other: Counts) -> None:
        """Add the counts of the rows that follow."""
        self.rows, self.read = self.rows + other.rows, self.read + other.read
        self.converted += other.converted
        self.reading = self.reading or other.reading
        self.facts.update(other.facts)
        self.notes = list(dict.fromkeys([*self.notes, *other.notes]))
        self.pieces = [a + b for a, b in zip(self.pieces, other.pieces, strict=True)]
        self.statistics.merge(other.statistics)

    def as_json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**values, "statistics": self.statistics.as_json()}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Counts:
        statistics = Statistics.from_json(values["statistics"])
        return Counts(**{**values, "facts": Counter(values["facts"]), "statistics": statistics})


@dataclass
class Shard:
    """Encoded records and problems of consecutive rows.

    prompts: a hash of the prompt of each encoded record, uint64 [N]; told: problems of reading, by the place of their
    row; problems: those of encoding, by the hash of their prompt; digests: of every checked record, as
    `zoo.data.duplicates.DIGEST`.
    """

    block: Block
    prompts: Numbers
    told: Problems
    problems: Problems
    digests: Numbers
    counts: Counts

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(getattr(self.block, name).values.nbytes for name in RAGGED) + 64 * self.counts.rows

    def select(self, places: Numbers) -> Block:
        """The encoded records at some positions."""
        return select(self.block, places)


def select(block: Block, places: Numbers) -> Block:
    """The records of a block at some positions, in memory. Raises DamagedStore."""
    if isinstance(block, StoredBlock):
        for place in places:
            block.check(int(place))
    ragged: dict[str, Any] = {name: _select(getattr(block, name), places) for name in RAGGED}
    numbers = {name: column[places] for name, column in block.numbers.items()}
    records = [block.records[int(place)] for place in places]
    return Block(block.kind, block.rows[places], **ragged, numbers=numbers, records=records, problems=[], count=0)


def _select(column: Ragged, places: Numbers) -> Ragged:
    rows = [column.row(int(place)) for place in places]
    offsets = numpy.zeros(len(rows) + 1, dtype=numpy.int64)
    offsets[1:] = numpy.cumsum([len(row) for row in rows])
    return Ragged(numpy.concatenate(rows) if rows else column.values[:0], offsets)


def joined(shards: Sequence[Shard]) -> Shard:
    """Consecutive shards as one, in memory."""
    counts = Counts()
    shifts = []
    for shard in shards:
        shifts.append(counts.rows)
        counts.merge(shard.counts)
    digests = [shard.digests.copy() for shard in shards]
    for part, shift in zip(digests, shifts, strict=True):
        part["place"] += shift
    return Shard(
        joined_blocks([shard.block for shard in shards]),
        numpy.concatenate([shard.prompts for shard in shards]),
        Problems.joined([shard.told for shard in shards], shifts),
        Problems.joined([shard.problems for shard in shards]),
        numpy.concatenate(digests),
        counts,
    )


def joined_blocks(blocks: Sequence[Block]) -> Block:
    ragged: dict[str, Any] = {name: _joined_columns([getattr(block, name) for block in blocks]) for name in RAGGED}
    names = dict.fromkeys(name for block in blocks for name in block.numbers)
    numbers = {
        name: numpy.concatenate([block.numbers.get(name, numpy.full(len(block), numpy.nan)) for block in blocks])
        for name in names
    }
    rows = numpy.concatenate([block.rows for block in blocks])
    records = _joined_records([block.records for block in blocks])
    return Block(blocks[0].kind, rows, **ragged, numbers=numbers, records=records, problems=[], count=0)


def _joined_columns(columns_of_blocks: Sequence[Ragged]) -> Ragged:
    lengths = numpy.concatenate([numpy.diff(column.offsets) for column in columns_of_blocks])
    offsets = numpy.zeros(len(lengths) + 1, dtype=numpy.int64)
    offsets[1:] = numpy.cumsum(lengths)
    return Ragged(numpy.concatenate([column.values for column in columns_of_blocks]), offsets)


# -- in files ------------------------------------------------------------------------------------------------------


class PackedRecords(Sequence[Record]):
    """Canonical records as JSON: a list of texts in memory, or their bytes in a file.

    places: the text of each record: the pieces of a text share one.
    """

    def __init__(self, texts: Any, places: Numbers):
        self.texts, self.places = texts, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return from_json(self.text(index))

    def text(self, index: int) -> bytes:
        """One record as JSON."""
        place = int(self.places[index])
        return self.texts[place] if isinstance(self.texts, list) else self.texts.row(place).tobytes()


def packed(records: Iterable[Record]) -> PackedRecords:
    """Records as JSON, each object once."""
    places: dict[int, int] = {}
    texts: list[bytes] = []
    records = list(records)
    for record in records:
        if id(record) not in places:
            places[id(record)] = len(texts)
            texts.append(as_json(marked(record)))
    return PackedRecords(texts, numpy.array([places[id(record)] for record in records], dtype=numpy.int32))


def _joined_records(parts: Sequence[Sequence[Record]]) -> Any:
    if not all(isinstance(part, PackedRecords) and isinstance(part.texts, list) for part in parts):
        return [record for part in parts for record in part]
    starts = numpy.cumsum([0, *(len(part.texts) for part in parts)])  # type: ignore[attr-defined]
    places = [part.places + start for part, start in zip(parts, starts, strict=False)]  # type: ignore[attr-defined]
    texts = [text for part in parts for text in part.texts]  # type: ignore[attr-defined]
    return PackedRecords(texts, numpy.concatenate(places).astype(numpy.int32))


def names_of(number: int) -> dict[str, str]:
    """The files of a shard."""
    return {part: f"{number:05}.{part}.arrow" for part in ("encoded", "records", "told", "problems")} | {
        "digests": f"{number:05}.digests.npy"
    }


def save(shard: Shard, folder: Path, number: int) -> None:
    """Write a shard; its `.json` comes last, and without it there is no shard."""
    block, names = shard.block, names_of(number)
    records = block.records if isinstance(block.records, PackedRecords) else packed(block.records)
    encoded = {name: columns.lists(*getattr(block, name)) for name in RAGGED}
    encoded |= {"record": columns.numbers(records.places)}
    small = {
        "row": block.rows,
        "prompt": shard.prompts,
        "sum": record_sums(dataclasses.replace(block, records=records)),
    }
    small |= {f"number {name}": column for name, column in block.numbers.items()}
    encoded |= {name: columns.numbers(column) for name, column in small.items()}
    columns.write_table(folder / names["encoded"], encoded)
    columns.write_table(folder / names["records"], {"record": columns.texts(records.texts)})
    columns.write_table(folder / names["told"], shard.told.as_columns())
    columns.write_table(folder / names["problems"], shard.problems.as_columns())
    numpy.save(folder / names["digests"], shard.digests)
    facts = {
        "kind": block.kind, "records": len(block), "counts": shard.counts.as_json(),
        "files": {name: file_sums(folder / name) for name in names.values()}, "columns": column_sums(small),
        "codes": [shard.told.names, shard.problems.names],
    }  # fmt: skip
    write_text(folder / f"{number:05}.json", sealed(facts))


def load(folder: Path, number: int, whole: bool = False) -> Shard:
    """A shard whose columns lie in its files. Raises ValueError or OSError where these are not as they were written.

    whole: whether all bytes are checked now; else the records are when they are read.
    """
    facts, names = opened(folder / f"{number:05}.json"), names_of(number)
    for part, name in names.items():
        if part != "digests" or (folder / name).exists():
            check_file(folder / name, facts["files"][name], whole or part not in ("encoded", "records"))
    encoded, kept, told, problems = (
        columns.read_table(folder / names[part]) for part in ("encoded", "records", "told", "problems")
    )
    small = {name: columns.array(encoded[name]) for name in encoded if name not in (*RAGGED, "record")}
    check_columns(small, facts["columns"], names["encoded"])
    ragged: dict[str, Any] = {name: Ragged(*columns.parts(encoded[name])) for name in RAGGED}
    numbers = {name.split()[1]: column for name, column in small.items() if name.startswith("number ")}
    records = PackedRecords(Ragged(*columns.text_parts(kept["record"])), columns.array(encoded["record"]))
    block = StoredBlock(
        facts["kind"], small["row"], **ragged, numbers=numbers, records=records, problems=[], count=0,
        sums=small["sum"], folder=folder,
    )  # fmt: skip
    digests = folder / names["digests"]
    return Shard(
        block, small["prompt"], Problems.from_columns(told, facts["codes"][0]),
        Problems.from_columns(problems, facts["codes"][1]),
        numpy.load(digests, mmap_mode="r") if digests.exists() else numpy.zeros(0), Counts.from_json(facts["counts"]),
    )  # fmt: skip
