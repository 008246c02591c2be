"""The arithmetic of judging: from choices to preferences and grades, and their statistics (arXiv:2309.00267).

Judges have a position bias: the smaller the model, the more often it chooses the first answer whatever it says. So
each pair is judged in both orders, P(a better) = ½[P_ab(first) + P_ba(second)].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

Grade = TypeVar("Grade", float, Tensor)
TIE = 0.01
"""A pair whose probability is this close to a half counts as a tie."""
BINS = 10


def distribution(logps: Sequence[float]) -> list[float]:
    """The probabilities of the choices, normalised to sum to 1: softmax, in float64."""
    return torch.tensor(logps, dtype=torch.float64).softmax(-1).tolist()


def expected_grade(logps: Sequence[float]) -> float:
    """Σ i·P(i) over the grades 1, 2, …"""
    return sum(grade * p for grade, p in enumerate(distribution(logps), start=1))


def as_reward(grade: Grade, low: float = 1.0, high: float = 10.0) -> Grade:
    """Grades from `low` to `high` as rewards of −1 to 1. The paper scales too, but does not say how."""
    return 2 * (grade - low) / (high - low) - 1


def entropy(p: float) -> float:
    """The entropy of a coin with this probability, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


@dataclass(frozen=True)
class Verdict:
    """A judgement of a pair (a, b).

    p: the probability that a is better, clamped if that was asked for; NaN if there is none; first, second: the same
    from the order (a, b) and from (b, a); thoughts: the judge's reasoning in both orders; problem: why there is none.
    """

    p: float
    first: float = math.nan
    second: float = math.nan
    thoughts: tuple[str, ...] = ()
    problem: str = ""

    @staticmethod
    def of(
        first_order: Sequence[float],
        second_order: Sequence[float],
        clamp: tuple[float, float] | None = None,
        thoughts: tuple[str, ...] = (),
    ) -> Verdict:
        """From the log-probabilities of the choices (first answer, second answer) in the orders (a, b) and (b, a)."""
        first, second = distribution(first_order)[0], distribution(second_order)[1]
        p = (first + second) / 2
        return Verdict(p if clamp is None else min(max(p, clamp[0]), clamp[1]), first, second, thoughts)

    @property
    def inconsistent(self) -> bool:
        """Whether the judge chose the same position in both orders."""
        return (self.first - 0.5) * (self.second - 0.5) < 0

    @property
    def tie(self) -> bool:
        return abs((self.first + self.second) / 2 - 0.5) <= TIE

    def turned(self) -> Verdict:
        """The verdict on (b, a)."""
        return Verdict(1 - self.p, 1 - self.first, 1 - self.second, self.thoughts, self.problem)


@dataclass
class Tally:
    """Counts over the pairs and answers that were judged."""

    pairs: int = 0
    inconsistent: int = 0
    ties: int = 0
    entropy: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    """Labels by their probability, in ten equal parts of 0 to 1."""
    unclamped: list[int] = field(default_factory=lambda: [0] * BINS)
    """The same without clamping."""
    grades: int = 0
    grade_sum: float = 0.0
    unusable: Counter[str] = field(default_factory=Counter)
    """Counts of what could not be judged, by reason."""

    def add(self, verdict: Verdict) -> None:
        if verdict.problem:
            self.unusable[verdict.problem] += 1
            return
        self.pairs += 1
        self.inconsistent += verdict.inconsistent
        self.ties += verdict.tie
        self.entropy += entropy(verdict.p)
        self.histogram[_bin(verdict.p)] += 1
        self.unclamped[_bin((verdict.first + verdict.second) / 2)] += 1

    def add_grade(self, grade: float) -> None:
        self.grades += 1
        self.grade_sum += grade

    def summary(self) -> dict[str, Any]:
        """Shares and means over the pairs, None if there are none; entropy in nats (at most ln 2 = 0.693)."""

        def share(count: float) -> float | None:
            return count / self.pairs if self.pairs else None

        return {
            "pairs": self.pairs,
            "position_inconsistent": share(self.inconsistent),
            "ties": share(self.ties),
            "entropy": share(self.entropy),
            "histogram": list(self.histogram),
            "histogram_unclamped": list(self.unclamped),
            "grades": self.grades,
            "mean_grade": self.grade_sum / self.grades if self.grades else None,
            "unusable": sum(self.unusable.values()),
            "unusable_reasons": dict(self.unusable),
        }


def _bin(p: float) -> int:
    return min(int(p * BINS), BINS - 1)
