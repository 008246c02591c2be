"""Evaluates a reward model: does it order answers correctly, and not only by their length?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from zoo.data.encoding.encode import encode
from zoo.errors import ZooError, nearest
from zoo.evals import Score, Subject, mean_score, share_score
from zoo.evals.pairs import Pair, calibration_error, correlation
from zoo.models.precision import autocast
from zoo.models.scalar import score_many, unit_of
from zoo.values.ties import won
from zoo.values.types import Answer

ZEROS = ("wrong", "right", "skip")
"""The possible meanings of a step's label 0."""


def pair_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Share of preference pairs whose chosen answer has the higher reward."""
    encoded = encode(records[: subject.limit], "preference", subject.template).records
    answers = [record[side] for record in encoded for side in ("chosen", "rejected")]
    rewards = _rewards(subject, answers)
    lengths = [int(answer.mask.sum()) for answer in answers]
    chosen_indices = range(0, len(answers), 2)
    pairs = [Pair(rewards[i], rewards[i + 1], lengths[i], lengths[i + 1]) for i in chosen_indices]
    samples = [pair.sample_of(record["record"]) for pair, record in zip(pairs, encoded, strict=True)]
    margins = [record.get("margin") for record in encoded]
    details = {**compared(pairs), **by_margin(pairs, margins), **distribution(rewards, lengths)}
    return share_score(name, [pair.right for pair in pairs], details=details, samples=samples)


def ranking_eval(name: str, subject: Subject, records: list[dict[str, Any]]) -> Score:
    """Share of pairs of unequal rank that the reward orders the same way: mean over prompts."""
    encoded = encode(records[: subject.limit], "ranking", subject.template).records
    answers = [answer for record in encoded for answer in record["completions"]]
    rewards = iter(zip(_rewards(subject, answers), (int(answer.mask.sum()) for answer in answers), strict=True))
    shares, pairs, flat = [], [], []
    for record in encoded:
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
    return mean_score(name, shares, (0.0, 1.0), details=details)


def step_eval(name: str, subject: Subject, records: list[dict[str, Any]], zero: str = "") -> Score:
    """Share of a solution's steps, up to its first wrong one, that are on the right side of ½: mean over solutions.

    zero: the meaning of a label 0, as in training: "wrong", "right", or "skip" for steps to leave out.
    """
    _require(subject, "step")
    encoded = encode(records[: subject.limit], "stepwise", subject.template).records
    _require_meaning(zero, [label for record in encoded for label in record["labels"]])
    answers, ends = [record["completion"] for record in encoded], [record["step_ends"] for record in encoded]
    with autocast(subject.precision, next(subject.model.parameters()).device):
        scored = score_many(subject.model, answers, at=ends, progress=subject.progress)
    shares: list[float] = []
    hits: dict[bool, list[float]] = {True: [], False: []}
    for record, scores in zip(encoded, scored, strict=True):
        judged = _judged_steps(record["labels"], scores, zero)
        if judged:
            shares.append(sum(won(score if right else -score) for right, score in judged) / len(judged))
        for right, score in judged:
            hits[right].append(won(score if right else -score))
    details: dict[str, Any] = {"steps": sum(map(len, hits.values()))}
    for right, word in ((True, "right"), (False, "wrong")):
        details[f"{word}_steps"] = len(hits[right])
        details[f"accuracy_of_{word}"] = round(sum(hits[right]) / len(hits[right]), 3) if hits[right] else None
    # F1 of finding wrong steps: most steps are right, so accuracy flatters a model that calls every step right.
    found_wrong = sum(hits[False])
    missed, false = len(hits[False]) - found_wrong, len(hits[True]) - sum(hits[True])
    details["f1_of_wrong"] = round(2 * found_wrong / (2 * found_wrong + missed + false), 3) if hits[False] else None
    return mean_score(name, shares, (0.0, 1.0), details=details)


def _judged_steps(labels: Sequence[int], scores: Sequence[float], zero: str) -> list[tuple[bool, float]]:
    """(whether it is right, its score) for every labelled step up to the first wrong one."""
    judged = []
    for label, score in zip(labels, scores, strict=True):
        if label == 0 and zero == "skip":
            continue
        right = label == 1 or (label == 0 and zero == "right")
        judged.append((right, score))
        if not right:
            break
    return judged


def _require_meaning(zero: str, labels: Sequence[int]) -> None:
    """Raises ZooError for an unknown `zero`, and if 0 is ambiguous."""
    if zero not in ("", *ZEROS):
        raise ZooError(f"zero={zero} is not a meaning of label 0.{nearest(zero, ZEROS)}", f"Give {' or '.join(ZEROS)}.")
    if not zero and {0, -1} <= set(labels):
        raise ZooError(
            "Some steps are labelled −1, so 0 may mean neutral.",
            "Say what 0 is, as in training: step_accuracy(zero=right), or zero=skip, or zero=wrong.",
        )


def _rewards(subject: Subject, answers: list[Answer]) -> list[float]:
    _require(subject, "answer")
    device = next(subject.model.parameters()).device
    with autocast(subject.precision, device):
        return score_many(subject.model, answers, progress=subject.progress)


def _require(subject: Subject, unit: str) -> None:
    """Raises ZooError unless the model scores whole answers ("answer"), or steps ("step")."""
    if not hasattr(subject.model, "score"):
        raise ZooError("This evaluation is for reward models, but the model is a language model.")
    if (own_unit := unit_of(subject.model)) != unit:
        fitting = {"step": "--eval step_accuracy", "answer": "--eval pair_accuracy"}[own_unit]
        raise ZooError(
            f"This evaluation is for models that score a whole {unit}, but this one scores a {own_unit}.",
            f"Use {fitting}.",
        )


def compared(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Statistics of the rewards of pairs: compared with chance, with length, and with their certainty."""
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
        "mean_margin": round(sum(pair.margin for pair in pairs) / count, 3),
        "calibration_error": round(calibration_error([pair.margin for pair in pairs]), 3),
    }


def by_margin(pairs: Sequence[Pair], margins: Sequence[float | None]) -> dict[str, float]:
    """Accuracy for pairs with small margins (up to the median) and with large margins.

    margins: how much better the data calls each chosen answer, or None. Empty if fewer than two margins differ.
    """
    rated = [(margin, pair.right) for pair, margin in zip(pairs, margins, strict=True) if margin is not None]
    sizes = sorted(margin for margin, _ in rated)
    if len(set(sizes)) < 2:
        return {}
    largest_small = min(sizes[(len(sizes) - 1) // 2], max(size for size in sizes if size < sizes[-1]))
    accuracies: dict[str, list[float]] = {"small_margin_accuracy": [], "large_margin_accuracy": []}
    for margin, right in rated:
        accuracies["small_margin_accuracy" if margin <= largest_small else "large_margin_accuracy"].append(right)
    return {name: round(sum(hits) / len(hits), 3) for name, hits in accuracies.items()}


def distribution(rewards: Sequence[float], lengths: Sequence[int]) -> dict[str, Any]:
    """Mean, population standard deviation, and correlation with the length, over all answers."""
    n = max(1, len(rewards))
    mean = sum(rewards) / n
    together = correlation(list(zip(rewards, lengths, strict=True)))
    return {
        "reward_mean": round(mean, 3),
        "reward_std": round(math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / n), 3),
        "length_correlation": None if together is None else round(together, 3),
    }
