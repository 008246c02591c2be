"""The answers of a record or a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.values.loss import Loss
from zoo.values.types import Answer, Answers, Batch


def answers_in(record: Mapping[str, Any]) -> list[Answer]:
    """Every answer of an encoded record or a batch, in the order of the fields.

    A field may be an answer, `Answers`, or a list of either. An answer that stands under two names comes twice.
    """
    # The fields of a batch as they are kept: a batch gives numbers per token padded, which takes time.
    fields = record.fields if isinstance(record, Batch) else record
    return [answer for value in fields.values() for answer in _answers(value)]


def with_facts(record: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """An encoded record whose answers have facts such as their row."""

    def changed(value: Any) -> Any:
        if isinstance(value, Answer):
            return replace(value, **facts)
        return [changed(item) for item in value] if isinstance(value, list) else value

    return {name: changed(value) for name, value in record.items()}


def answer_weights(loss: Loss, part: Batch) -> dict[int, float]:
    """What each answer of a micro-batch weighs in its loss, by the identity of the answer.

    An example's weight is divided equally among its answers.
    """
    rows = loss.weights.detach().reshape(len(loss.weights), -1).sum(-1).tolist()
    everything = answers_in(part)
    if len(rows) == len(everything):
        owners = [[answer] for answer in everything]
    else:
        owners = [
            [
                answer
                for value in part.fields.values()
                if isinstance(value, list | Answers)
                for answer in _answers(value[i])
            ]
            for i in range(len(part))
        ]
    weights: dict[int, float] = {}
    for weight, answers in zip(rows, owners, strict=True):
        for answer in answers:
            weights[id(answer)] = weights.get(id(answer), 0.0) + weight / len(answers)
    return weights


def _answers(value: Any) -> list[Answer]:
    if isinstance(value, Answer):
        return [value]
    return [answer for item in value for answer in _answers(item)] if isinstance(value, list | Answers) else []
