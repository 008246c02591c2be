"""The batch of each data kind, with its fields: hooks of an algorithm of that kind get it.

A plugin that adds fields in `collate` or `rollout` declares them in a class of its own, for type checkers and readers:

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
    """Prompts, each with a good answer."""

    completion: Answers


class TextBatch(Batch):
    """Plain texts, as answers to empty prompts. For type checkers: the batch itself is a `DemonstrationBatch`."""

    completion: Answers


class FeedbackBatch(Batch):
    """Answers with labels. label: bool [B], whether the answer is good."""

    completion: Answers
    label: Tensor


class PreferenceBatch(Batch):
    """Pairs of answers. margin, p_chosen: float32 [B], None if the data has none; NaN if a row has none."""

    optional: ClassVar[tuple[str, ...]] = ("margin", "p_chosen")
    chosen: Answers
    rejected: Answers
    margin: Tensor | None
    p_chosen: Tensor | None


class RankingBatch(Batch):
    """Several answers to each prompt. completions: an `Answers` for each of B prompts; ranks: theirs, 1 is best."""

    completions: list[Answers]
    ranks: list[list[float]]


class StepwiseBatch(Batch):
    """Solutions in steps. step_ends: positions of each step's last token in the completion; labels: of each step."""

    completion: Answers
    step_ends: list[list[int]]
    labels: list[list[Any]]


_CLASSES: tuple[type[Batch], ...] = (
    PreferenceBatch, RankingBatch, StepwiseBatch, FeedbackBatch, DemonstrationBatch,
)  # fmt: skip
"""Classes with more fields first."""


def batch_of(fields: Mapping[str, Any]) -> Batch:
    """A batch of these fields, of the class that has them."""
    fits = (cls for cls in _CLASSES if set(cls.__annotations__) - {"optional", *cls.optional} <= set(fields))
    return next(fits, Batch)(**fields)
