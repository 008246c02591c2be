"""How different texts are from each other, as token sequences: formulas without models.

distinct-n (arXiv:1510.03055) is the share of different n-grams. It falls with the number of tokens; EAD
(arXiv:2202.13587) divides by the number of different n-grams expected for random tokens. Self-BLEU (arXiv:1802.01886)
is the BLEU of each text against the others: high if all are similar.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[int]
LONGEST_BLEU = 4
EPSILON = 0.1
"""What BLEU counts if no n-gram is shared, so that short texts do not get 0 (method 1 of Chen and Cherry 2014)."""


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def pooled(texts: Sequence[Tokens], n: int) -> Counter[tuple[int, ...]]:
    """The n-grams of all texts together; no n-gram crosses the end of a text."""
    total: Counter[tuple[int, ...]] = Counter()
    for tokens in texts:
        total.update(ngrams(tokens, n))
    return total


def distinct(texts: Sequence[Tokens], n: int) -> float | None:
    """Different n-grams as a share of all; None if there is no n-gram."""
    counts = pooled(texts, n)
    return len(counts) / counts.total() if counts else None


def adjusted_distinct(texts: Sequence[Tokens], n: int, vocabulary: int) -> float | None:
    """EAD: different n-grams over V·(1 − ((V − 1)/V)^C), C: number of n-grams, V: size of the vocabulary."""
    counts = pooled(texts, n)
    if not counts:
        return None
    expected = -vocabulary * math.expm1(counts.total() * math.log1p(-1 / vocabulary))
    return len(counts) / expected


def self_bleu(texts: Sequence[Tokens]) -> float | None:
    """Mean over texts of the BLEU-4 against all other texts; None for fewer than two texts with tokens."""
    nonempty = [list(tokens) for tokens in texts if len(tokens)]
    if len(nonempty) < 2:
        return None
    grams = [[ngrams(tokens, n) for n in range(1, LONGEST_BLEU + 1)] for tokens in nonempty]
    return sum(_bleu(i, nonempty, grams) for i in range(len(nonempty))) / len(nonempty)


def _bleu(i: int, texts: list[list[int]], grams: list[list[Counter[tuple[int, ...]]]]) -> float:
    """BLEU of one text with all others as references: clipped precisions, brevity penalty by the nearest length."""
    logs = 0.0
    for n in range(LONGEST_BLEU):
        own = grams[i][n]
        hits = sum(min(count, max(other[n][gram] for j, other in enumerate(grams) if j != i))
                   for gram, count in own.items())  # fmt: skip
        if n == 0 and hits == 0:
            return 0.0
        logs += math.log((hits or EPSILON) / max(1, own.total()))
    length = len(texts[i])
    nearest = min((len(tokens) for j, tokens in enumerate(texts) if j != i), key=lambda r: (abs(r - length), r))
    brevity = 0.0 if length > nearest else 1 - nearest / length
    return math.exp(brevity + logs / LONGEST_BLEU)
