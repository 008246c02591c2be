"""Rows that are the same as an earlier one, by digests of 12 bytes, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from zoo.data.problems import Problems
from zoo.data.report import Problem

DIGEST = numpy.dtype([("first", "<u8"), ("rest", "<u4"), ("row", "<i8"), ("place", "<i8")])
"""A digest, the row number, and the place of the row among those that were read."""
AT_ONCE = 1 << 20
"""Digests that are sorted at a time."""
Numbers = numpy.ndarray[Any, numpy.dtype[Any]]


def digests_of(digests: Sequence[bytes], rows: Sequence[int], places: Sequence[int]) -> Numbers:
    """Digests of 12 bytes each as an array of DIGEST."""
    made = numpy.zeros(len(digests), dtype=DIGEST)
    if len(digests):
        plain = numpy.frombuffer(b"".join(digests), dtype=[("first", "<u8"), ("rest", "<u4")])
        made["first"], made["rest"], made["row"], made["place"] = plain["first"], plain["rest"], rows, places
    return made


def duplicates(parts: Sequence[Numbers], shifts: Sequence[int]) -> Problems:
    """The rows that repeat an earlier row with another number, by their places. shifts: added to each part's places."""
    buckets = -(-sum(map(len, parts)) // AT_ONCE)
    pieces = [_repeated(_bucket(parts, shifts, number, buckets)) for number in range(buckets)]
    if not pieces:
        return Problems.of([], [])
    places, rows, firsts = (numpy.concatenate(columns) for columns in zip(*pieces, strict=True))
    order = numpy.argsort(places)
    told = [
        Problem(int(rows[i]), "W_DUPLICATE", "row", f"is the same as row {int(firsts[i])}") for i in order
    ]  # fmt: skip
    return Problems.of(told, [int(places[i]) for i in order])


def _bucket(parts: Sequence[Numbers], shifts: Sequence[int], number: int, buckets: int) -> Numbers:
    """The digests of all parts that end in a number."""
    chosen = []
    for part, shift in zip(parts, shifts, strict=True):
        mine = part[part["first"] % numpy.uint64(buckets) == number] if buckets > 1 else part.copy()
        mine["place"] += shift
        chosen.append(mine)
    return numpy.concatenate(chosen)


def _repeated(digests: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Places, rows, and the rows that they repeat."""
    ordered = digests[numpy.lexsort((digests["place"], digests["rest"], digests["first"]))]
    begins = numpy.ones(len(ordered), dtype=bool)
    begins[1:] = (ordered["first"][1:] != ordered["first"][:-1]) | (ordered["rest"][1:] != ordered["rest"][:-1])
    starts = numpy.maximum.accumulate(numpy.where(begins, numpy.arange(len(ordered)), 0))
    firsts = ordered["row"][starts]
    again = ordered["row"] != firsts
    return ordered["place"][again], ordered["row"][again], firsts[again]
