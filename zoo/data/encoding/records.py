"""Encoded records as they lie in blocks of columns: a record is made when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from zoo.data.encoding.block import NUMBERS, Block, Numbers
from zoo.values.records import ChosenRecords, LazyRecords

PROMPT_HASH = "prompt_hash"
"""The column of the hashes of prompts, uint64: equal for records with the same prompt."""


class EncodedRecords(LazyRecords):
    """The records of blocks, in order. prompts: the hashes of each block's prompts, where they are known."""

    def __init__(self, blocks: Sequence[Block], prompts: Sequence[Numbers] = ()):
        self.blocks, self.prompts = blocks, prompts
        self._ends = numpy.cumsum([len(block) for block in blocks], dtype=numpy.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        if isinstance(places, range):
            return ChosenRecords(self, places)
        number = int(numpy.searchsorted(self._ends, places, side="right"))
        block = self.blocks[number]
        return block.record(places - int(self._ends[number]) + len(block))

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        if name == PROMPT_HASH and self.prompts:
            return numpy.concatenate(self.prompts)
        if name == "row" and self.blocks:
            return numpy.concatenate([block.rows for block in self.blocks]).astype(numpy.float64)
        if name in NUMBERS and self.blocks:
            columns = [block.numbers.get(name, numpy.full(len(block), numpy.nan)) for block in self.blocks]
            numbers = numpy.concatenate(columns)
            return numbers if numbers.dtype == bool else numbers.astype(numpy.float64)
        return super().column(name)
