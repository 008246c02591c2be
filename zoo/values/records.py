"""Records, which `prepare` and `finish` get: read by index, by column, or one after another."""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy

from zoo.errors import ZooError

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

    def with_column(self, name: str, values: numpy.ndarray[Any, Any]) -> Records:
        """The records, each with one more number, of values [N]. Nothing else of them is read for it."""
        return NumberedRecords(self, name, values)


class ListedRecords(Records):
    """Records in memory."""

    def __init__(self, records: Iterable[Record]):
        self._records = list(records)

    @staticmethod
    def of(records: Iterable[Record]) -> Records:
        """The records themselves if they are `Records`, else those of the iterable in memory."""
        return records if isinstance(records, Records) else ListedRecords(records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return ListedRecords(self._records[index]) if isinstance(index, slice) else self._records[index]

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        return column_of(record.get(name) for record in self._records)

    def map(self, function: Callable[[Record], Record]) -> ListedRecords:
        return ListedRecords(function(record) for record in self._records)

    def filter(self, function: Callable[[Record], bool]) -> ListedRecords:
        return ListedRecords(record for record in self._records if function(record))


class LazyRecords(Records):
    """Records that are made when they are read. What is mapped is computed again at each reading."""

    def __iter__(self) -> Iterator[Record]:
        return (self[place] for place in range(len(self)))

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        return column_of(record.get(name) for record in self)

    def map(self, function: Callable[[Record], Record]) -> Records:
        return MappedRecords(self, function)

    def filter(self, function: Callable[[Record], bool]) -> Records:
        places = numpy.fromiter((place for place, record in enumerate(self) if function(record)), dtype=numpy.int64)
        return ChosenRecords(self, places)


class ChosenRecords(LazyRecords):
    """Some of other records. places: their positions there, such as a range or an array."""

    def __init__(self, records: Records, places: Any):
        self._records, self.places = records, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        places = self.places[index]
        return ChosenRecords(self._records, places) if isinstance(index, slice) else self._records[int(places)]

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        return self._records.column(name)[numpy.asarray(self.places, dtype=numpy.int64)]


class MappedRecords(LazyRecords):
    """What a function makes of each of other records."""

    def __init__(self, records: Records, function: Callable[[Record], Record]):
        self._records, self._function = records, function

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return MappedRecords(self._records[index], self._function)
        return self._function(self._records[index])


class NumberedRecords(LazyRecords):
    """Other records with one more number each. values: the numbers, [N]. Raises ValueError for another count."""

    def __init__(self, records: Records, name: str, values: numpy.ndarray[Any, Any]):
        if len(records) != len(values):
            raise ValueError(f"{len(records):,} records cannot have {len(values):,} values of {name}.")
        self._records, self.name, self.values = records, name, values

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return NumberedRecords(self._records[index], self.name, self.values[index])
        return {**self._records[index], self.name: self.values[index].item()}

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        return self.values if name == self.name else self._records.column(name)


class Without(Sequence[int]):
    """The positions 0, 1, … below `size` but a few; in memory there are only the few. left_out: ascending."""

    def __init__(self, size: int, left_out: numpy.ndarray[Any, Any]):
        self.size, self.left_out = size, left_out
        self._before = left_out - numpy.arange(len(left_out))
        """How many positions stand before each of those left out."""

    def __len__(self) -> int:
        return self.size - len(self.left_out)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            places = numpy.arange(*index.indices(len(self)))
            return places + numpy.searchsorted(self._before, places, side="right")
        place = range(len(self))[index]
        return place + int(numpy.searchsorted(self._before, place, side="right"))

    def __array__(self, dtype: Any = None, copy: Any = None) -> numpy.ndarray[Any, Any]:
        return numpy.delete(numpy.arange(self.size, dtype=dtype), self.left_out)


def column_of(values: Iterable[Any]) -> numpy.ndarray[Any, Any]:
    """Values as `Records.column` gives them."""
    values = list(values)
    if values and all(isinstance(value, bool) for value in values):
        return numpy.array(values, dtype=bool)
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        return numpy.array([math.nan if value is None else value for value in values], dtype=numpy.float64)
    return numpy.array(values, dtype=object)


def rows_of(records: Sequence[Record]) -> numpy.ndarray[Any, Any]:
    """The row numbers of records, [N]; of `Records` without reading the rest of them."""
    if isinstance(records, Records):
        return records.column("row")
    return column_of(record.get("row") for record in records)


def first_of_each(records: Sequence[Record], count: int) -> Sequence[Record]:
    """The first `count` records; of joined ones the first of each part, of all about as many."""
    if not isinstance(records, JoinedRecords):
        return records[:count]
    turns = itertools.zip_longest(*(range(*bounds) for bounds in itertools.pairwise(records.starts)))
    places = [place for turn in itertools.islice(turns, count) for place in turn if place is not None]
    return ChosenRecords(records, numpy.array(sorted(places[:count]), dtype=numpy.int64))


class NeedsAll(ZooError):
    """Raised by records of which only the first are there."""


class StreamedRecords(Records):
    """Records that come one after another, in a number that nobody knows; of these only the first can be looked at.

    They can be mapped and filtered, which is done to each as it comes. Whatever needs all of them raises NeedsAll.
    """

    def __init__(self, first: Records, stages: tuple[Callable[[Record], Record | None], ...] = ()):
        self.first = first
        """The first records, as the functions leave them."""
        self._stages = stages

    def passed(self, record: Record) -> Record | None:
        """A record as the functions leave it; None for one that a filter leaves out."""
        for stage in self._stages:
            if (changed := stage(record)) is None:
                return None
            record = changed
        return record

    def map(self, function: Callable[[Record], Record]) -> StreamedRecords:
        return StreamedRecords(self.first.map(function), (*self._stages, function))

    def filter(self, function: Callable[[Record], bool]) -> StreamedRecords:
        return StreamedRecords(self.first.filter(function), (*self._stages, lambda r: r if function(r) else None))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            if index.stop is None or index.stop < 0 or (index.start or 0) < 0:
                raise NeedsAll("A slice of a stream's records has no end.")
            return self.first[index]
        if not 0 <= index < len(self.first):
            raise NeedsAll(f"The record {index} of a stream is not among the first {len(self.first):,}.")
        return self.first[index]

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise NeedsAll("Nobody knows how many records a stream has.")

    def __iter__(self) -> Iterator[Record]:
        raise NeedsAll("The records of a stream are not read one after another before training.")

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        raise NeedsAll(f"A stream has no column '{name}' of all its records.")


class JoinedRecords(LazyRecords):
    """Several records one after another. Rows go on counting: each row number stands for one row of one part.

    Raises ValueError for records without `row`.
    """

    def __init__(self, parts: Sequence[Sequence[Record]]):
        self.parts = [ListedRecords.of(part) for part in parts]
        rows = [part.column("row") for part in self.parts]
        if any(numpy.isnan(numbers).any() for numbers in rows):
            raise ValueError("Records without a row cannot be joined.")
        last = [int(numbers.max(initial=0)) for numbers in rows]
        self.before = list(itertools.accumulate(last, initial=0))[:-1]
        """The number that is added to the rows of each part."""
        self.starts = list(itertools.accumulate(map(len, self.parts), initial=0))
        """The place of each part's first record; the last is the number of all."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ChosenRecords(self, range(len(self))[index])
        place = range(len(self))[index]
        part = bisect.bisect_right(self.starts, place) - 1
        record = self.parts[part][place - self.starts[part]]
        return {**record, "row": record["row"] + self.before[part]}

    def column(self, name: str) -> numpy.ndarray[Any, Any]:
        columns = [part.column(name) for part in self.parts]
        if name == "row":
            return numpy.concatenate([numbers + before for numbers, before in zip(columns, self.before, strict=True)])
        if any(column.dtype == object for column in columns):
            nothing: Any = None
            columns = [numpy.where(column != column, nothing, column.astype(object)) for column in columns]
        return numpy.concatenate(columns)
