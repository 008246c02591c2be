"""Hashes that were there before, whatever their number: 8 bytes each, in files where a folder is named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

Numbers = numpy.ndarray[Any, numpy.dtype[numpy.uint64]]
AT_ONCE = 1 << 20
"""Hashes that are sorted at a time, and that stay in memory although a folder is named."""


class Seen:
    """A set of 64-bit hashes, as sorted runs of which each is at least twice as long as the next.

    folder: where long runs lie, in files without a name, which end with the process.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.runs: list[Numbers] = []

    def has(self, hashes: Numbers) -> numpy.ndarray[Any, numpy.dtype[numpy.bool_]]:
        """Whether each of these is in the set, bool [N]."""
        there = numpy.zeros(len(hashes), dtype=bool)
        for run in self.runs:
            places = numpy.minimum(numpy.searchsorted(run, hashes), len(run) - 1)
            there |= run[places] == hashes
        return there

    def add(self, hashes: Numbers) -> None:
        """Add hashes that are not in the set yet."""
        if not len(hashes):
            return
        self.runs.append(numpy.sort(hashes))
        while len(self.runs) > 1 and len(self.runs[-2]) < 2 * len(self.runs[-1]):
            self.runs.append(self._merged(self.runs.pop(), self.runs.pop()))

    def _merged(self, first: Numbers, second: Numbers) -> Numbers:
        """Both in order. Raises OSError where the folder cannot take them."""
        if self.folder is None or len(first) + len(second) <= AT_ONCE:
            return numpy.concatenate([*_in_order(first, second)])
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for part in _in_order(first, second):
                file.write(part.data)
            file.flush()
            return numpy.memmap(file, dtype=numpy.uint64, mode="r")


def _in_order(first: Numbers, second: Numbers) -> Iterator[Numbers]:
    """Two sorted arrays as one, in sorted pieces. Hashes are spread evenly, so that no piece is long."""
    pieces = -(-(len(first) + len(second)) // AT_ONCE)
    borders = numpy.array([2**64 * number // pieces for number in range(1, pieces)], dtype=numpy.uint64)
    halves = (numpy.split(run, numpy.searchsorted(run, borders)) for run in (first, second))
    for parts in zip(*halves, strict=True):
        yield numpy.sort(numpy.concatenate(parts))
