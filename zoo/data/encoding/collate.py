"""Collation: turns the encoded records of one optimizer step into a `Batch`, whatever fields they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.values.batches import batch_of
from zoo.values.records import Record
from zoo.values.types import Answer, Answers, Batch


def default_collate(records: Sequence[Record]) -> Batch:
    """A batch with one field for each field of the encoded records, of the class for their kind of data.

    Answers become `Answers`; several answers to one prompt become a list of `Answers`; truth values and numbers become
    tensors [B], with NaN if a record has no value; everything else (prompt ids, lists, the original records) stays a
    list. `conversation` and `marked` are left out. Raises ZooError if a record lacks any other field.
    """
    records = list(records)
    names = dict.fromkeys(name for record in records for name in record)
    # The same answer with other trained turns: for algorithms that use them in a collate of their own.
    for name in ("conversation", "marked"):
        names.pop(name, None)
    return batch_of({name: _column(name, [record.get(name) for record in records], records) for name in names})


def _column(name: str, values: list[Any], records: Sequence[Record]) -> Any:
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool | int | float) for value in present):
        return _numbers(values)
    if len(present) < len(values):
        row = next(record.get("row", "?") for record, value in zip(records, values, strict=True) if value is None)
        raise ZooError(
            f"The record of row {row} has no '{name}', but other records of its batch have one.",
            "A prepare hook must give every record the same fields.",
        )
    if all(isinstance(value, Answer) for value in values):
        return Answers(values)
    several = all(isinstance(value, list) and value and isinstance(value[0], Answer) for value in values)
    return [Answers(value) for value in values] if several else values


def _numbers(values: list[Any]) -> Tensor:
    if all(isinstance(value, bool) for value in values):
        return torch.tensor(values, dtype=torch.bool)
    if all(isinstance(value, int) for value in values):
        return torch.tensor(values, dtype=torch.long)
    return torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float32)
