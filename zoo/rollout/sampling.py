"""Choosing the next token: temperature, top-k, top-p, stop strings, and a random stream for each answer.

Every answer has one stream of uniform numbers, seeded from the run's generator before anything is generated, and a
token is the point where the cumulative distribution passes the next number of the stream. So an answer does not depend
on which other answers share its batch, nor on when they end, and the run's generator advances by the same amount
whatever is sampled.

The returned log-probabilities are those of softmax(logits / temperature), in float32, before top-k and top-p: a trainer
recomputes the same quantity at that temperature. With neither filter they are the log-probabilities of the sampling
distribution; with a filter, the sampling distribution is the same one, restricted and renormalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError

NUCLEUS_GUESS = 5000
"""For top-p, a first attempt leaves out tokens less likely than (1 - top_p) / this."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled. Raises ZooError for impossible values."""

    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (log-probabilities are then those of temperature 1)."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Sample from the smallest set of likeliest tokens with at least this total probability; 1 for all."""
    stop: Sequence[str] = ()
    """Strings that end an answer. The tokens up to and including the one that completes the string are kept."""
    budget: int = 0
    """Most tokens per answer, on average over one call; beyond it the longest answers are cut. 0: no limit."""

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or a positive number"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or a positive whole number"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (all tokens)"),
            ("budget", self.budget >= 0, "0 (no budget) or a positive whole number"),
        )
        for name, passed, allowed in checks:
            if not passed:
                value = getattr(self, name)
                raise ZooError(f"{name} = {value} is not possible.", f"Set {name} to {allowed}.")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ZooError(f"stop = {self.stop!r} is not a list of strings.", 'Write it as stop = ["###"].')

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability.

    logits: [B, V], any float type; uniforms: [B] in [0, 1), not read when greedy.
    Returns ids int64 [B] and log-probabilities float32 [B] (the module docstring says which).
    """
    scores = logits.float()
    if sampling.greedy:
        ids = scores.argmax(-1, keepdim=True)
        return ids[:, 0], scores.log_softmax(-1).gather(-1, ids)[:, 0]
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    probabilities = allowed = scores.softmax(-1)
    if sampling.top_k or sampling.top_p < 1:
        allowed = allowed.masked_fill(allowed < lowest_kept(allowed, sampling.top_k, sampling.top_p), 0.0)
    cumulative = allowed.cumsum(-1)
    # 1 - u is in (0, 1], so a search for the first sum that reaches it finds a token with a probability above
    # zero and never runs past the end, however the sums are rounded.
    target = (1 - uniforms).to(cumulative)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, target).clamp(max=logits.shape[-1] - 1)
    return ids[:, 0], probabilities.gather(-1, ids).log()[:, 0]


def lowest_kept(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """The smallest probability that top-k, then top-p, keep; [B, V] to [B, 1].

    A token is in the nucleus if all more likely tokens together have less than top_p. Tokens as likely as the last one
    kept are kept too, so that the result does not depend on the order of a sort.
    """
    vocabulary = probabilities.shape[-1]
    if top_k:
        likeliest = probabilities.topk(min(top_k, vocabulary)).values
        if top_p >= 1:
            return likeliest[:, -1:]
        return _nucleus_edge(likeliest, top_p * likeliest.sum(-1, keepdim=True))
    # Sorting a vocabulary costs as much as the model's step. Tokens below (1 - top_p) / V together have less than
    # 1 - top_p, so none of them is in the nucleus; most rows need far fewer tokens still.
    mass = probabilities.new_full((len(probabilities), 1), top_p)
    likeliest = _at_least(probabilities, (1 - top_p) / NUCLEUS_GUESS)
    lowest = _nucleus_edge(likeliest, mass)
    wider = likeliest.sum(-1) < top_p
    if wider.any():
        likeliest = _at_least(probabilities[wider], (1 - top_p) / vocabulary)
        lowest[wider] = _nucleus_edge(likeliest, mass[wider])
    return lowest


def _at_least(probabilities: Tensor, floor: float) -> Tensor:
    """The probabilities of each row that are at least `floor`, descending, then zeros; [B, V] to [B, K]."""
    kept = probabilities >= floor
    counts = kept.sum(-1, keepdim=True)
    packed = probabilities.new_zeros(len(probabilities), max(1, int(counts.max())))
    packed[torch.arange(packed.shape[1], device=packed.device) < counts] = probabilities[kept]
    return packed.sort(descending=True).values


def _nucleus_edge(descending: Tensor, mass: Tensor) -> Tensor:
    """The smallest of the probabilities [B, K] that are needed to reach `mass` [B, 1]."""
    above = descending.cumsum(-1) - descending
    count = ((above < mass) & (descending > 0)).sum(-1, keepdim=True)
    return descending.gather(-1, count.clamp(min=1) - 1)


def seeds(count: int, generator: torch.Generator) -> list[int]:
    """One seed for each answer, from the run's generator; the k-th does not depend on how many follow."""
    drawn = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device)
    return drawn.tolist()


def uniform_stream(seed: int, length: int) -> list[float]:
    """The uniform numbers in [0, 1) of one answer; the same on every device."""
    own = torch.Generator().manual_seed(seed)
    return torch.rand(length, generator=own, dtype=torch.float64).tolist()


class StopStrings:
    """Tells when the text of an answer contains one of the stop strings.

    Only the end of an answer is decoded: a string of L characters spans at most 4·L tokens (a character has at most
    four bytes, a token at least one), and earlier matches were found when they occurred. A few more tokens are decoded
    because a tokenizer may treat the first token of a text differently.
    """

    CONTEXT = 8

    def __init__(self, stop: Sequence[str], tokenizer: Any):
        if stop and tokenizer is None:
            raise ZooError("Stop strings need a tokenizer, but this engine has none.", "Leave stop empty.")
        self.stop = tuple(stop)
        self.tokenizer = tokenizer
        self.window = 4 * max((len(text) for text in stop), default=0) + self.CONTEXT

    def __call__(self, ids: list[int]) -> bool:
        """Whether the answer with these completion ids has just completed a stop string."""
        if not self.stop:
            return False
        text = self.tokenizer.decode(ids[-self.window :], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self.stop)
