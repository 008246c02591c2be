"""The batch of each data kind, with the fields that it has: what a hook of an algorithm of that kind is handed.

A plugin that adds fields in `collate` or `rollout` says so in a class of its own, for type checkers and readers:

    class Experience(Batch):
        answers: Answers
        advantage: Tensor
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from zoo.values.types import Answers, Batch


class DemonstrationBatch(Batch):
    """Prompts with a good answer to each."""

    completion: Answers


class TextBatch(Batch):
    """Plain texts, as answers to empty prompts."""

    completion: Answers


class FeedbackBatch(Batch):
    """Answers with a label each. label: bool [B], whether the answer is good."""

    completion: Answers
    label: Tensor


class PreferenceBatch(Batch):
    """Pairs of answers. margin, p_chosen: float32 [B], None where the data has none; NaN where a row has none."""

    optional: ClassVar[tuple[str, ...]] = ("margin", "p_chosen")
    chosen: Answers
    rejected: Answers
    margin: Tensor | None
    p_chosen: Tensor | None


class RankingBatch(Batch):
    """Several answers to each prompt. completions: an `Answers` for each of B prompts; ranks: theirs, 1 is the best."""

    completions: list[Answers]
    ranks: list[list[float]]


class StepwiseBatch(Batch):
    """Solutions in steps. step_ends: the last token of each step, as positions in the completion; labels: of each."""

    completion: Answers
    step_ends: list[list[int]]
    labels: list[list[Any]]


_CLASSES: tuple[type[Batch], ...] = (
    PreferenceBatch, RankingBatch, StepwiseBatch, FeedbackBatch, DemonstrationBatch,
)  # fmt: skip
"""Those with more fields first."""


def batch_of(fields: Mapping[str, Any]) -> Batch:
    """A batch of these fields, of the class that has them."""
    fits = (cls for cls in _CLASSES if set(cls.__annotations__) - {"optional", *cls.optional} <= set(fields))
    return next(fits, Batch)(**fields)
