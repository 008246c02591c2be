"""Evaluating a reward model: does it order answers as they should be, and by more than their length?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.data.encode import encode
from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, share_score
from zoo.models.precision import autocast
from zoo.models.scalar import score_many
from zoo.types import Answer

SAME_LENGTH = 0.1
"""Answers are of one length when they differ by at most this share of the longer one, in tokens."""
BINS = 10


@dataclass(frozen=True)
class Pair:
    """Two scored answers to one prompt, the first of which is the better one. Lengths in tokens."""

    chosen: float
    rejected: float
    chosen_length: int
    rejected_length: int

    @property
    def right(self) -> bool:
        return self.chosen > self.rejected

    @property
    def same_length(self) -> bool:
        gap = abs(self.chosen_length - self.rejected_length)
        return gap <= SAME_LENGTH * max(self.chosen_length, self.rejected_length)


def pair_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Share of preference pairs whose chosen answer has the higher reward."""
    found = encode(records[: subject.limit], "preference", subject.template).records
    answers = [record[side] for record in found for side in ("chosen", "rejected")]
    rewards = _rewards(subject, answers)
    lengths = [int(answer.mask.sum()) for answer in answers]
    every = range(0, len(answers), 2)
    pairs = [Pair(rewards[i], rewards[i + 1], lengths[i], lengths[i + 1]) for i in every]
    samples = [_sample(record["record"], pair) for record, pair in zip(found, pairs, strict=True)]
    details = {**compared(pairs), **distribution(rewards, lengths)}
    return share_score(name, sum(pair.right for pair in pairs), len(pairs), details=details, samples=samples)


def ranking_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Share of pairs of unequal rank that the reward orders the same way: mean over prompts."""
    found = encode(records[: subject.limit], "ranking", subject.template).records
    answers = [answer for record in found for answer in record["completions"]]
    rewards = iter(zip(_rewards(subject, answers), (int(answer.mask.sum()) for answer in answers), strict=True))
    shares, pairs, flat = [], [], []
    for record in found:
        scored = list(itertools.islice(rewards, len(record["completions"])))
        flat += scored
        ranks = record["ranks"]
        here = [
            Pair(scored[i][0], scored[j][0], scored[i][1], scored[j][1])
            for i, j in itertools.permutations(range(len(ranks)), 2)
            if ranks[i] < ranks[j]
        ]
        shares.append(sum(pair.right for pair in here) / len(here))
        pairs += here
    details = {"pairs": len(pairs), **compared(pairs), **distribution(*zip(*flat, strict=True))} if flat else {}
    return mean_score(name, shares, details=details)


def _rewards(subject: Subject, answers: list[Answer]) -> list[float]:
    if not hasattr(subject.model, "score"):
        raise ZooError("This evaluation is for reward models, and the model is a language model.")
    device = next(subject.model.parameters()).device
    with autocast(subject.precision, device):
        return score_many(subject.model, answers, progress=subject.progress)


def _sample(record: dict[str, Any], pair: Pair) -> dict[str, Any]:
    """A pair to read; its score is 1 where it is ordered right."""
    texts = [
        value if isinstance(value, str) else value[-1]["content"] for value in (record["chosen"], record["rejected"])
    ]
    answer = f"{pair.chosen:+.2f} for the better “{texts[0]}”, {pair.rejected:+.2f} for “{texts[1]}”"
    return {"prompt": record["prompt"], "answer": answer, "score": float(pair.right)}


def compared(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What rewards of pairs look like beside a coin's, length's and certainty's."""
    even = [pair for pair in pairs if pair.same_length]
    count = max(1, len(pairs))
    longer = (
        sum(
            (pair.chosen_length > pair.rejected_length) + 0.5 * (pair.chosen_length == pair.rejected_length)
            for pair in pairs
        )
        / count
    )
    return {
        "longer_wins": round(longer, 3),
        "shorter_wins": round(1 - longer, 3),
        "same_length_accuracy": round(sum(pair.right for pair in even) / len(even), 3) if even else None,
        "same_length_pairs": len(even),
        "mean_margin": round(sum(pair.chosen - pair.rejected for pair in pairs) / count, 3),
        "calibration_error": round(calibration_error([pair.chosen - pair.rejected for pair in pairs]), 3),
    }


def calibration_error(margins: Sequence[float]) -> float:
    """Expected calibration error of σ(Δ): the gap between certainty and accuracy, over ten bins of certainty.

    Certainty is σ(|Δ|), between ½ and 1; each bin counts by its pairs. 0 is perfect.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for margin in margins:
        certainty = 1 / (1 + math.exp(-min(abs(margin), 700.0)))
        bins.setdefault(min(BINS - 1, int((certainty - 0.5) * 2 * BINS)), []).append((certainty, margin > 0))
    gaps = [abs(sum(certainty - right for certainty, right in found)) for found in bins.values()]
    return sum(gaps) / max(1, len(margins))


def distribution(rewards: Sequence[float], lengths: Sequence[int]) -> dict[str, Any]:
    """Mean, standard deviation (of a population) and correlation with the length, over all answers."""
    n = max(1, len(rewards))
    mean, middle = sum(rewards) / n, sum(lengths) / n
    std, spread = (
        math.sqrt(sum((value - centre) ** 2 for value in values) / n)
        for values, centre in ((rewards, mean), (lengths, middle))
    )
    together = sum((a - mean) * (b - middle) for a, b in zip(rewards, lengths, strict=True)) / n
    return {
        "reward_mean": round(mean, 3),
        "reward_std": round(std, 3),
        "length_correlation": round(together / (std * spread), 3) if std * spread else None,
    }
