"""What is done with a block of lines, whichever process does it: from lines to encoded records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from zoo.data.convert import CONVERSIONS, convert
from zoo.data.duplicates import digests_of
from zoo.data.encoding.block import Block, Numbers
from zoo.data.encoding.encode import encode_block
from zoo.data.encoding.statistics import Statistics
from zoo.data.encoding.template import ChatTemplate
from zoo.data.formats import named_format
from zoo.data.formats.shape import Format
from zoo.data.kinds import Record, prompt_key
from zoo.data.load import facts_of, read_as
from zoo.data.problems import Problems
from zoo.data.report import Report
from zoo.data.shards import Counts, Shard, packed
from zoo.data.sources.lines import Line, RawLine, parsed
from zoo.data.stages import digest, records_of


@dataclass
class Work:
    """How lines become encoded records.

    format: of the lines; columns: wanted names to those in the data; kind: of the encoded records; the rest as in
    `zoo.data.encoding.encode.encode`.
    """

    format: Format
    columns: Mapping[str, str]
    kind: str
    template: ChatTemplate
    max_length: int = 1024
    long_rows: str = "drop"
    packed: bool = False
    """Whether canonical records become JSON at once, for a file."""

    def __getstate__(self) -> dict[str, Any]:
        # A format is functions, which its name finds again.
        return {**vars(self), "format": self.format.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "format": named_format(state["format"])})

    @property
    def once(self) -> bool:
        """Whether of several records with one prompt only the first is kept."""
        conversion = CONVERSIONS.get((self.format.kind, self.kind))
        return conversion is not None and conversion.once

    def encoded(self, lines: Iterable[Line | RawLine]) -> Shard:
        """Parse, check, convert and encode lines. Raises ZooError for a record that cannot be packed."""
        read, report = list(parsed(lines)), Report("")
        places = {line.number: place for place, line in reversed(list(enumerate(read)))}
        records = list(records_of(read, self.format, self.columns, report))
        rows = [record["row"] for record in records]
        digests = digests_of([digest(record) for record in records], rows, [places[row] for row in rows])
        told = Problems.of(report.problems, [places[problem.row] for problem in report.problems])
        counts = Counts(rows=len(read), read=len(records))
        if records:
            counts.reading = read_as(records[0], self.format)
            records = convert(records, self.format.kind, self.kind)[0]
        counts.converted, counts.facts = len(records), facts_of(records, self.kind)
        return self._shard(records, told, digests, counts)

    def _shard(self, records: list[Record], told: Problems, digests: Numbers, counts: Counts) -> Shard:
        block = encode_block(
            records, self.kind, self.template, max_length=self.max_length, long_rows=self.long_rows
        )  # fmt: skip
        hashes = {id(record): prompt_hash(record) for record in records}
        prompts = numpy.array([hashes[id(record)] for record in block.records], dtype=numpy.uint64)
        of_rows = {record["row"]: hashes[id(record)] for record in records}
        if self.packed:
            block.records = packed(block.records)
        problems = Problems.of(block.problems, [of_rows[problem.row] for problem in block.problems])
        counts.notes = list(self.template.notes)
        counts.pieces = [len(block.pieces), sum(block.pieces)]
        counts.statistics.add(block, self.template.eos_ids)
        return Shard(block, prompts, told, problems, digests, counts)

    def measured(self, block: Block) -> Statistics:
        """Statistics of encoded records."""
        statistics = Statistics()
        statistics.add(block, self.template.eos_ids)
        return statistics


class Prompts:
    """Different prompts, by the hashes of their records."""

    def __init__(self, hashes: Numbers):
        self._hashes = numpy.unique(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, record: Record) -> bool:
        """Whether the prompt of a record is one of them."""
        place = numpy.searchsorted(self._hashes, value := numpy.uint64(prompt_hash(record)))
        return bool(place < len(self._hashes) and self._hashes[place] == value)


def prompt_hash(record: Record) -> int:
    """64 bits that are equal for records with the same prompt."""
    return int.from_bytes(hashlib.blake2b(f"0:{prompt_key(record)}".encode(), digest_size=16).digest()[:8])
