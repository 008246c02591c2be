"""Length-controlled win rates: a logistic model of preferences, evaluated for answers of equal length.

Judges like long answers. AlpacaEval 2.0 (arXiv:2404.04475) therefore explains each preference by three terms: which
model wrote the answer, how much longer it is than the other answer, and how hard the instruction is. It reports the
prediction without the second term. With only two models the third term cannot be told from chance, so it is left out:

    P(win) = σ(θ + φ · tanh(d / s)),   d: difference of the lengths, s: its deviation; the rate is σ(θ).

tanh limits the effect of large differences. Preferences may be probabilities. Both coefficients have a weak normal
prior (deviation 1 for φ, 10 for θ), without which a model that always wins would have no finite estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

PRECISION = numpy.diag([0.01, 1.0])
"""Deviations of the prior on θ and φ."""
STEPS = 100
Z = 1.959964


@dataclass(frozen=True)
class LengthControlled:
    """rate: the win rate for answers of equal length, with its 95 % interval; length_effect: φ."""

    rate: float
    low: float
    high: float
    length_effect: float


def length_controlled(wins: Sequence[float], differences: Sequence[float]) -> LengthControlled:
    """Fit θ and φ by Newton's method. wins: from 0 to 1, for each pair; differences: of the lengths, own − other.

    The interval is that of θ, mapped by σ, with the sandwich estimate of its variance (preferences are not coin flips
    with the model's probabilities).
    """
    y, x = numpy.asarray(wins, dtype=float), numpy.asarray(differences, dtype=float)
    spread = x.std()
    features = numpy.stack([numpy.ones_like(x), numpy.tanh(x / spread) if spread > 0 else 0 * x], axis=1)
    weights = numpy.zeros(2)
    for _ in range(STEPS):
        p = _sigmoid(features @ weights)
        slope = features.T @ (y - p) - PRECISION @ weights
        curvature = (features * (p * (1 - p))[:, None]).T @ features + PRECISION
        step = numpy.linalg.solve(curvature, slope)
        # Newton's steps overshoot if the probabilities are near 0 or 1.
        step *= min(1.0, 2.0 / max(1e-12, float(numpy.abs(step).max())))
        weights += step
        if numpy.abs(step).max() < 1e-10:
            break
    errors = features * (y - _sigmoid(features @ weights))[:, None]
    inverse = numpy.linalg.inv(curvature)
    half = Z * math.sqrt((inverse @ (errors.T @ errors + PRECISION) @ inverse)[0, 0])
    theta, phi = map(float, weights)
    return LengthControlled(_share(theta), _share(theta - half), _share(theta + half), phi)


def _sigmoid(values: numpy.ndarray) -> numpy.ndarray:
    return 1 / (1 + numpy.exp(-numpy.clip(values, -700, 700)))


def _share(value: float) -> float:
    return float(_sigmoid(numpy.array(value)))
