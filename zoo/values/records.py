"""Records, which `prepare` and `finish` get: read by index, by column, or one after another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, overload

import numpy

Record = dict[str, Any]


class Records(ABC, Sequence[Record]):
    """Encoded records in order. They need not all be in memory: read columns or iterate, but do not keep them."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    @abstractmethod
    def __getitem__(self, index: int | slice) -> Record | Records:
        """A record, or a slice of the records."""

    @abstractmethod
    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        """One number, truth value or short text of each record, without reading the rest of it, [N].

        Truth values are bool; numbers are float64, with NaN if a record has none; texts are objects, with None if a
        record has none. If no record has the field, all values are NaN.
        """

    @abstractmethod
    def map(self, function: Callable[[Record], Record]) -> Records:
        """The results of the function for each record, in order."""

    @abstractmethod
    def filter(self, function: Callable[[Record], bool]) -> Records:
        """The records for which the function is true."""


class ListedRecords(Records):
    """Records in memory."""

    def __init__(self, records: Iterable[Record]):
        self._records = list(records)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The records themselves if they are `Records`, else those of the iterable in memory."""
        return records if isinstance(records, cls) else cls(records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return ListedRecords(self._records[index]) if isinstance(index, slice) else self._records[index]

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        values = [record.get(name) for record in self._records]
        if values and all(isinstance(value, bool) for value in values):
            return numpy.array(values, dtype=bool)
        if all(value is None or isinstance(value, bool | int | float) for value in values):
            return numpy.array([math.nan if value is None else value for value in values], dtype=numpy.float64)
        return numpy.array(values, dtype=object)

    def map(self, function: Callable[[Record], Record]) -> ListedRecords:
        return ListedRecords(function(record) for record in self._records)

    def filter(self, function: Callable[[Record], bool]) -> ListedRecords:
        return ListedRecords(record for record in self._records if function(record))
