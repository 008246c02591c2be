"""Checksums of a store (CRC-32), so that no changed byte is trained on.

The small columns and the head of each file are checked when a store is opened, each record when it is read. The
whole files of a large store are checked only when that is asked for: with millions of rows they are gigabytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from zoo.data.encoding.block import Block, Numbers
from zoo.errors import ZooError

HEAD = 8192
"""Bytes at the start of a file, which say where its columns lie."""
AT_ONCE = 1 << 20
"""Bytes of a file that are read at a time."""
MADE_AGAIN = (
    "Start again, or `zoo resume` the run, after `zoo cache clear --kind data`: the rows are then encoded again."
)


class DamagedStore(ZooError):
    """A record of a store is not the one that was written. folder: of the store."""

    def __init__(self, folder: Path, row: int):
        super().__init__(f"The store in {folder} is damaged: what it holds near row {row:,} has changed.", MADE_AGAIN)
        self.folder = folder


@dataclass
class StoredBlock(Block):
    """A block in files, whose records are checked as they are read. sums: a checksum for each record, uint32 [N]."""

    sums: Numbers = field(default_factory=lambda: numpy.zeros(0, dtype=numpy.uint32))
    folder: Path = Path()

    def record(self, index: int) -> dict[str, Any]:
        self.check(index)
        return super().record(index)

    def check(self, index: int) -> None:
        """Raises DamagedStore where a record has changed."""
        try:
            is_whole = record_sum(self, index, text_sum(self, index)) == self.sums[index]
        except (IndexError, ValueError, OverflowError):
            is_whole = False
        if not is_whole:
            raise DamagedStore(self.folder, int(self.rows[index]))


def text_sum(block: Any, index: int) -> int:
    """The checksum of the canonical record of an encoded one, as JSON."""
    return zlib.crc32(block.records.text(index))


def record_sum(block: Block, index: int, text: int) -> int:
    """The checksum of all columns of a record. text: that of its canonical record."""
    total = zlib.crc32(block.rows[index].tobytes(), text)
    for column in (block.tokens, block.answers, block.spans, block.step_ends):
        # Two rows of different lengths may have the same bytes together.
        total = zlib.crc32(b"|", zlib.crc32(column.row(index).tobytes(), total))
    for name in sorted(block.numbers):
        total = zlib.crc32(block.numbers[name][index].tobytes(), total)
    return total


def record_sums(block: Any) -> Numbers:
    """The checksums of all records of a block, uint32 [N]. The pieces of a text share one, which is read once."""
    texts = [zlib.crc32(text) for text in block.records.texts]
    places = block.records.places
    sums = [record_sum(block, index, texts[places[index]]) for index in range(len(block))]
    return numpy.array(sums, dtype=numpy.uint32)


# -- files ---------------------------------------------------------------------------------------------------------


def file_sums(path: Path) -> list[int]:
    """[bytes, checksum of the head, checksum of all] of a file."""
    return [path.stat().st_size, _sum(path, HEAD), _sum(path)]


def check_file(path: Path, sums: list[int], whole: bool) -> None:
    """Raises ValueError for a file that has changed, as far as its head or the whole of it tells."""
    size, head, everything = sums
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} does not have its {size:,} bytes")
    if (_sum(path) != everything) if whole else (_sum(path, HEAD) != head):
        raise ValueError(f"{path.name} has changed")


def _sum(path: Path, most: int | None = None) -> int:
    total = 0
    with path.open("rb") as file:
        while part := file.read(AT_ONCE if most is None else most):
            total = zlib.crc32(part, total)
            if most is not None:
                break
    return total


def column_sums(columns: Mapping[str, Numbers]) -> dict[str, int]:
    """The checksums of columns of numbers."""
    return {name: zlib.crc32(numpy.ascontiguousarray(column).data) for name, column in columns.items()}


def check_columns(columns: Mapping[str, Numbers], sums: Mapping[str, int], file: str) -> None:
    """Raises ValueError for a column that has changed."""
    for name, total in column_sums(columns).items():
        if sums.get(name) != total:
            raise ValueError(f"'{name}' in {file} has changed")


# -- facts ---------------------------------------------------------------------------------------------------------


def sealed(facts: Mapping[str, Any]) -> str:
    """Facts as JSON, with a checksum of their own."""
    text = json.dumps(facts)
    return json.dumps({**facts, "sum": zlib.crc32(text.encode())})


def opened(path: Path) -> dict[str, Any]:
    """The facts of a file that `sealed` made. Raises ValueError where they have changed."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        total = facts.pop("sum")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path.name} cannot be read") from None
    if zlib.crc32(json.dumps(facts).encode()) != total:
        raise ValueError(f"{path.name} has changed")
    return facts
