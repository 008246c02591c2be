"""Rewards for an answer's length, and penalties for repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.rewards.functions import in_process
from zoo.rewards.missing import Missing
from zoo.rewards.prose import words

Values = list[float | None | Missing]


@in_process
def length(completions: Sequence[str], records: Sequence[Any], target: float | None = None) -> Values:
    """The number of words; with a target: 1 at that many words, falling linearly to 0 at none and at twice as many."""
    if target is not None and not target > 0:
        raise ZooError("the target must be above 0 words")
    counts = [len(words(text)) for text in completions]
    return [float(n) if target is None else max(0.0, 1 - abs(n - target) / target) for n in counts]


@in_process
def overlong(
    completions: Sequence[str], records: Sequence[Any], max_new_tokens: int, buffer: int | None = None,
    tokens: Sequence[int] | None = None,
) -> Values:  # fmt: skip
    """Soft overlong punishment, arXiv:2503.14476, equation 13: 0 up to max_new_tokens − buffer tokens, then down to −1.

    buffer: L_cache, by default a fifth of max_new_tokens, as in the paper.
    """
    buffer = max(1, max_new_tokens // 5) if buffer is None else buffer
    if not 0 < buffer <= max_new_tokens:
        raise ZooError(f"the buffer must be 1 to {max_new_tokens} tokens (max_new_tokens), not {buffer}")
    if tokens is None:
        return [Missing("the number of the answer's tokens is not known here") for _ in completions]
    return [max(-1.0, min(0.0, (max_new_tokens - buffer - n) / buffer)) for n in tokens]


@in_process
def repetition(completions: Sequence[str], records: Sequence[Any], n: int = 3) -> Values:
    """Minus the share of n-grams of words that repeat an earlier one: 0 if none does, close to −1 in a loop."""
    if n < 1:
        raise ZooError("n must be 1 word or more")
    return [_share_of_new(text.lower().split(), n) - 1 for text in completions]


def _share_of_new(words: Sequence[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
