"""A budget of tokens for a rollout, so that it does not wait for its few longest answers.

All answers are cut at one common length: the largest length at which they stay within the budget together. If all
answers are generated side by side, this is the same as cutting those still in flight when the budget is spent. But the
result depends neither on how many answers fit into a batch nor on their order, and it can be applied to a server's
answers too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zoo.values.types import Answer


def common_length(lengths: Sequence[int], total: int) -> int | None:
    """The largest L with Σ min(length, L) ≤ total; None when the lengths fit as they are.

    It is at least 1. While some lengths are still growing, it is an upper bound of its final value.
    """
    if sum(lengths) <= total:
        return None
    left = total
    ascending = sorted(lengths)
    for number, length in enumerate(ascending):
        rows = len(ascending) - number
        if length * rows > left:
            return max(1, left // rows)
        left -= length
    raise AssertionError("the lengths fit")


def within(answers: list[Answer], budget: int) -> list[Answer]:
    """The answers, cut if they have more than `budget` tokens on average; a budget of 0 leaves them unchanged."""
    length = common_length([len(answer.completion) for answer in answers], budget * len(answers)) if budget else None
    return answers if length is None else [shortened(answer, length) for answer in answers]


def shortened(answer: Answer, length: int) -> Answer:
    """The first `length` tokens of an answer, marked as cut if it had more."""
    if len(answer.completion) <= length:
        return answer
    behaviour = None if answer.behaviour is None else answer.behaviour[:length]
    return dataclasses.replace(
        answer,
        completion=answer.completion[:length],
        mask=answer.mask[:length],
        behaviour=behaviour,
        ended=False,
        cut=True,
    )
