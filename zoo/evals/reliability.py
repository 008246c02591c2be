"""Calibration: whether statements with probability p are right with frequency p. Formulas without models.

Reliability diagram and expected calibration error as in arXiv:1706.04599, with bins of equal width; temperature scaling
from the same paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

Logits = Sequence[float]
HOTTEST = 100.0
"""The largest temperature that is tried; the smallest is its inverse."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Choice:
    """One question: the log-probabilities of its choices, up to a constant, and the index of the right one."""

    logits: tuple[float, ...]
    right: int

    def probabilities(self, temperature: float = 1.0) -> list[float]:
        top = max(self.logits)
        shares = [math.exp((logit - top) / temperature) for logit in self.logits]
        return [share / sum(shares) for share in shares]

    def certainty(self, temperature: float = 1.0) -> tuple[float, bool]:
        """The probability of the likeliest choice (the first of several equal ones), and whether it is right."""
        probabilities = self.probabilities(temperature)
        best = max(range(len(probabilities)), key=lambda i: probabilities[i])
        return probabilities[best], best == self.right


def reliability(certain: Sequence[tuple[float, bool]], bins: int) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, n) of each bin (i/bins, (i + 1)/bins] that has a case."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in certain:
        held.setdefault(min(bins - 1, max(0, math.ceil(confidence * bins) - 1)), []).append((confidence, right))
    return [
        (sum(c for c, _ in cases) / len(cases), sum(right for _, right in cases) / len(cases), len(cases))
        for _, cases in sorted(held.items())
    ]


def calibration_error(certain: Sequence[tuple[float, bool]], bins: int) -> float:
    """Expected calibration error: |confidence − accuracy| of the bins, weighted by their cases."""
    confidence, right = _columns(certain)
    return _error(confidence, right, bins)


def error_interval(certain: Sequence[tuple[float, bool]], bins: int) -> tuple[float, float]:
    """95 % interval of the calibration error by bootstrap over the questions (percentiles of 1,000 resamples)."""
    confidence, right = _columns(certain)
    draws = numpy.random.default_rng(0).integers(0, len(certain), (RESAMPLES, len(certain)))
    low, high = numpy.quantile([_error(confidence[draw], right[draw], bins) for draw in draws], [0.025, 0.975])
    return float(low), float(high)


def error_by_chance(certain: Sequence[tuple[float, bool]], bins: int) -> float:
    """The mean calibration error of a perfectly calibrated model: above 0 for few questions."""
    confidence, _ = _columns(certain)
    luck = numpy.random.default_rng(0).random((RESAMPLES, len(certain))) < confidence
    return float(numpy.mean([_error(confidence, outcomes, bins) for outcomes in luck]))


def _columns(certain: Sequence[tuple[float, bool]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    return numpy.array([c for c, _ in certain], dtype=float), numpy.array([right for _, right in certain], dtype=bool)


def _error(confidence: numpy.ndarray, right: numpy.ndarray, bins: int) -> float:
    """Σ over bins of |Σ confidence − Σ right|, divided by the number of cases: the weights of the bins cancel."""
    place = numpy.clip(numpy.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(numpy.abs(numpy.bincount(place, confidence - right, bins)).sum() / max(1, len(confidence)))


def fitted_temperature(choices: Sequence[Choice]) -> float:
    """The temperature that maximises the likelihood of the right choices.

    The negative log-likelihood is convex in β = 1/T; its slope Σ (E_β[logit] − right logit) grows with β, and its
    zero is found by bisection.
    """

    def slope(beta: float) -> float:
        total = 0.0
        for choice in choices:
            p = choice.probabilities(1 / beta)
            total += sum(a * logit for a, logit in zip(p, choice.logits, strict=True)) - choice.logits[choice.right]
        return total

    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def log_loss(choices: Sequence[Choice], temperature: float = 1.0) -> float:
    """−log of the probability of the right choice, mean in nats."""
    return -sum(math.log(max(1e-300, c.probabilities(temperature)[c.right])) for c in choices) / max(1, len(choices))


def brier(choices: Sequence[Choice]) -> float:
    """Mean over questions of the squared distance from the probabilities to the truth, summed over the choices."""
    total = 0.0
    for choice in choices:
        total += sum((p - (i == choice.right)) ** 2 for i, p in enumerate(choice.probabilities()))
    return total / max(1, len(choices))
