"""How different texts are from each other, as token sequences: formulas, without models.

distinct-n (arXiv:1510.03055) is the share of different n-grams. It falls with the number of tokens by itself; EAD
(arXiv:2202.13587) divides by what as many tokens drawn at random would have. Self-BLEU (arXiv:1802.01886) is the BLEU
of each text against the others: high where all are alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[int]
LONGEST_BLEU = 4
EPSILON = 0.1
"""What BLEU counts where no n-gram is shared, so that short texts do not have 0 (method 1 of Chen and Cherry 2014)."""


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def pooled(texts: Sequence[Tokens], n: int) -> Counter[tuple[int, ...]]:
    """The n-grams of all texts together; none goes over the end of a text."""
    total: Counter[tuple[int, ...]] = Counter()
    for tokens in texts:
        total.update(ngrams(tokens, n))
    return total


def distinct(texts: Sequence[Tokens], n: int) -> float | None:
    """Different n-grams as a share of all; None where there is none."""
    counts = pooled(texts, n)
    return len(counts) / counts.total() if counts else None


def adjusted_distinct(texts: Sequence[Tokens], n: int, vocabulary: int) -> float | None:
    """EAD: different n-grams over V·(1 − ((V − 1)/V)^C), C n-grams in all, V the size of the vocabulary."""
    counts = pooled(texts, n)
    if not counts:
        return None
    expected = -vocabulary * math.expm1(counts.total() * math.log1p(-1 / vocabulary))
    return len(counts) / expected


def self_bleu(texts: Sequence[Tokens]) -> float | None:
    """Mean over texts of the BLEU-4 against all others; None for fewer than two texts with tokens."""
    given = [list(tokens) for tokens in texts if len(tokens)]
    if len(given) < 2:
        return None
    grams = [[ngrams(tokens, n) for n in range(1, LONGEST_BLEU + 1)] for tokens in given]
    return sum(_bleu(i, given, grams) for i in range(len(given))) / len(given)


def _bleu(i: int, texts: list[list[int]], grams: list[list[Counter[tuple[int, ...]]]]) -> float:
    """BLEU of one text with all others as references: clipped precisions, the nearest length for brevity."""
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
