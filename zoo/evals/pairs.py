"""Pairs of scored answers, of which the first is better: margins, certainty and length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.values.ties import won

SAME_LENGTH = 0.1
"""Two answers count as equally long if they differ by at most this share of the longer one, in tokens."""
BINS = 10
SUBSETS = ("subset", "source", "topic", "category")
"""Columns that name the subset of the data a pair belongs to; the first one that a row has counts."""


@dataclass(frozen=True)
class Pair:
    """Two scored answers to one prompt, of which the first is better. Lengths are in tokens."""

    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int

    @property
    def right(self) -> float:
        """1 if they are ordered right, ½ for a tie, else 0."""
        return won(self.margin)

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected

    @property
    def same_length(self) -> bool:
        return abs(self.difference) <= SAME_LENGTH

    @property
    def difference(self) -> float:
        """How much longer the chosen answer is, as a share of the longer one: between −1 and 1."""
        return (self.chosen_length - self.rejected_length) / max(1, self.chosen_length, self.rejected_length)

    def as_sample(self, prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
        """A pair to read; its score is 1 if it is ordered right, ½ for a tie.

        chosen, rejected: strings or conversations.
        """
        texts = [value if isinstance(value, str) else value[-1]["content"] for value in (chosen, rejected)]
        answer = f"{self.chosen:+.2f} for the better “{texts[0]}”, {self.rejected:+.2f} for “{texts[1]}”"
        return {
            "prompt": prompt, "answer": answer, "score": self.right, "chosen_score": self.chosen,
            "rejected_score": self.rejected, "chosen_length": self.chosen_length,
            "rejected_length": self.rejected_length,
        }  # fmt: skip

    def sample_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a record of the data, with the subset that it belongs to as `subset`."""
        subset = next((str(record[name]) for name in SUBSETS if record.get(name) not in (None, "")), None)
        sample = self.as_sample(record["prompt"], record["chosen"], record["rejected"])
        return sample if subset is None else {**sample, "subset": subset}

    @staticmethod
    def from_sample(sample: Mapping[str, Any]) -> Pair | None:
        """The pair of a sample; None for a sample that is not a pair."""
        fields = ("chosen_score", "rejected_score", "chosen_length", "rejected_length")
        return Pair(*(sample[name] for name in fields)) if all(name in sample for name in fields) else None


def certainty_bins(margins: Sequence[float]) -> list[tuple[float, float, int]]:
    """(mean certainty, right pairs, n) over ten bins of σ(|margin|), between ½ and 1; empty bins are left out."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for margin in margins:
        certainty = 1 / (1 + math.exp(-min(abs(margin), 700.0)))
        bins.setdefault(min(BINS - 1, int((certainty - 0.5) * 2 * BINS)), []).append((certainty, won(margin)))
    return [
        (sum(certainty for certainty, _ in pairs) / len(pairs), sum(right for _, right in pairs), len(pairs))
        for _, pairs in sorted(bins.items())
    ]


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error of σ(Δ): the gap between certainty and accuracy, over ten bins of certainty.

    Certainty is σ(|Δ|), between ½ and 1; bins are weighted by their number of pairs. 0 is perfect.
    """
    gaps = [abs(certainty * n - right) for certainty, right, n in certainty_bins(margins)]
    return sum(gaps) / max(1, len(margins))


def correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's r; None if one side does not vary."""
    n = len(points)
    middle = [sum(point[i] for point in points) / max(1, n) for i in (0, 1)]
    spread = [sum((point[i] - middle[i]) ** 2 for point in points) for i in (0, 1)]
    if min(spread) <= 0:
        return None
    return sum((x - middle[0]) * (y - middle[1]) for x, y in points) / math.sqrt(spread[0] * spread[1])
