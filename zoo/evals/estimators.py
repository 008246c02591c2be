"""Unbiased estimates from a pool of answers, and rank correlation: formulas without models."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence


def pass_at(n: int, right: int, k: int) -> float:
    """The probability that one of k answers is right, if `right` of n answers are (arXiv:2107.03374, equation 1).

    1 − C(n − right, k) / C(n, k), which is unbiased; 1 − (1 − right/n)^k is not. Needs k ≤ n.
    """
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def majority(votes: Sequence[Hashable | None], right: Sequence[float]) -> float:
    """Whether the conclusion with most votes is right (arXiv:2203.11171); for a tie, the mean over the tied ones.

    votes: the conclusion of each answer, None for none; right: whether the answer is right. The first answer with a
    conclusion decides whether it is right. 0 if no answer has a conclusion.
    """
    counts: dict[Hashable, int] = {}
    worth: dict[Hashable, float] = {}
    for vote, value in zip(votes, right, strict=True):
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
            worth.setdefault(vote, value)
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return sum(worth[vote] for vote in winners) / len(winners) if winners else 0.0


def best_of(proxy: Sequence[float], values: Sequence[float], n: int) -> float:
    """Expected value of the answer with the highest proxy among n drawn from a pool of N without replacement.

    The i-th lowest is the best of n in C(i − 1, n − 1) of C(N, n) draws (arXiv:2112.09332, appendix I). Answers with
    equal proxies share their weight. Needs n ≤ N.
    """
    order = sorted(range(len(proxy)), key=lambda i: proxy[i])
    size = len(order)
    weights = [0.0] * size
    weights[-1] = n / size
    for i in range(size - 1, n - 1, -1):
        # C(i − 1, n − 1) / C(i, n − 1) = (i − n + 1) / i, for i counted from 1.
        weights[i - 1] = weights[i] * (i - n + 1) / i
    total, place = 0.0, 0
    while place < size:
        end = place
        while end < size and proxy[order[end]] == proxy[order[place]]:
            end += 1
        mean = sum(values[order[i]] for i in range(place, end)) / (end - place)
        total += mean * sum(weights[place:end])
        place = end
    return total


def divergence_of_best(n: int) -> float:
    """KL of best-of-n from the sampling model, in nats: log n − (n − 1)/n (arXiv:2210.10760).

    It is exact if no two answers have the same reward, and otherwise an upper bound (arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values get the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    result, place = [0.0] * len(values), 0
    while place < len(order):
        end = place
        while end < len(order) and values[order[end]] == values[order[place]]:
            end += 1
        for i in range(place, end):
            result[order[i]] = (place + end + 1) / 2
        place = end
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN if one side does not vary."""
    a, b = ranks(first), ranks(second)
    middle = (len(a) + 1) / 2
    spread = math.sqrt(sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b))
    shared = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    return shared / spread if spread else math.nan
