"""The answers of a record or a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.values.types import Answer, Answers, Batch


def answers_in(record: Mapping[str, Any]) -> list[Answer]:
    """Every answer of an encoded record or a batch, in the order of the fields.

    A field may be an answer, `Answers`, or a list of either. An answer that stands under two names comes twice.
    """
    # The fields of a batch as they are kept: a batch gives numbers per token padded, which takes time.
    fields = record.fields if isinstance(record, Batch) else record
    return [answer for value in fields.values() for answer in _answers(value)]


def _answers(value: Any) -> list[Answer]:
    if isinstance(value, Answer):
        return [value]
    return [answer for item in value for answer in _answers(item)] if isinstance(value, list | Answers) else []
