"""Answers that can be checked: how often one answer is right, one of k is, or the most frequent of k is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, share_score
from zoo.evals.drawing import Drawn, draw
from zoo.evals.estimators import majority, pass_at
from zoo.evals.rows import records_of, reward_for
from zoo.numbers import amount
from zoo.rewards.readings import number_of
from zoo.rewards.references import boxed
from zoo.rollout.engine import Sampling

Values = list[list[float | None]]
RIGHT = 0.5
"""An answer with a reward above this counts as right; checkers give 1 and 0."""
Conclusion = Literal["number", "boxed", "last_line", "text"]


def accuracy(
    subject: Subject, data: str, reward: str = "", split: str = "", columns: str = "", limit: int | None = None,
    max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0,
) -> Score:  # fmt: skip
    """Share of prompts whose answer is right by the reward (above ½); greedy unless a temperature is given."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    drawn, values, details = _verified(subject, data, reward, split, columns, limit, 1, sampling, seed)
    right = [None if rewards[0] is None else rewards[0] > RIGHT for rewards in values]
    return share_score("accuracy", right, details=details, samples=samples_of(drawn, values))


def pass_at_k(
    subject: Subject, data: str, k: int = 8, reward: str = "", samples: int | None = None, split: str = "",
    columns: str = "", limit: int | None = None, max_new_tokens: int = 256, temperature: float = 1.0,
    top_p: float = 1.0, conclusion: Conclusion = "number", seed: int = 0,
) -> Score:  # fmt: skip
    """The probability that one of k sampled answers is right, by the unbiased estimator of arXiv:2107.03374."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    return _of_k("pass_at_k", subject, data, k, reward, samples, split, columns, limit, sampling, conclusion, seed)


def maj_at_k(
    subject: Subject, data: str, k: int = 8, reward: str = "", split: str = "", columns: str = "",
    limit: int | None = None, max_new_tokens: int = 256, temperature: float = 1.0, top_p: float = 1.0,
    conclusion: Conclusion = "number", seed: int = 0,
) -> Score:  # fmt: skip
    """How often the most frequent conclusion of k sampled answers is right (self-consistency, arXiv:2203.11171)."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    return _of_k("maj_at_k", subject, data, k, reward, None, split, columns, limit, sampling, conclusion, seed)


def _of_k(
    name: str, subject: Subject, data: str, k: int, reward: str, samples: int | None, split: str, columns: str,
    limit: int | None, sampling: Sampling, conclusion: Conclusion, seed: int,
) -> Score:  # fmt: skip
    n = k if samples is None else samples
    if not 1 <= k <= n or sampling.greedy and n > 1:
        raise ZooError(
            f"{name}: {k} of {amount(n, 'answer')} cannot be drawn at temperature {sampling.temperature}.",
            "Give a k of 1 or more, no fewer samples than k, and a temperature above 0.",
        )
    drawn, values, details = _verified(subject, data, reward, split, columns, limit, n, sampling, seed)
    judged = {i: [value for value in rewards if value is not None] for i, rewards in enumerate(values)}
    # A prompt with fewer than k scored answers is left out.
    rights = {
        i: (len(rewards), sum(value > RIGHT for value in rewards)) for i, rewards in judged.items() if len(rewards) >= k
    }
    if not rights:
        raise ZooError(
            f"{name}: no prompt of {data} has {k} answers that the reward could score.",
            f"Draw more answers (samples={2 * k}), or see with `zoo eval --reward` why rewards are missing.",
        )
    curves = {
        size: [pass_at(count, right, size) for count, right in rights.values()] for size in sizes_up_to(k)
    }  # fmt: skip
    votes = [_majority(drawn.texts[i][:k], values[i][:k], CONCLUSIONS[conclusion]) for i in rights]
    by_prompt = {"pass_at_k": curves[k], "maj_at_k": votes}
    both = {key: sum(scores) / max(1, len(scores)) for key, scores in by_prompt.items()}
    more = {f"pass_at_{size}": sum(scores) / max(1, len(scores)) for size, scores in curves.items()}
    left_out = len(values) - len(rights)
    details = {"accuracy": more["pass_at_1"], **both, **more, "samples": n, "left_out": left_out, **details}
    of_prompt = dict(zip(rights, by_prompt[name], strict=True))
    scores = [of_prompt.get(i) for i in range(len(values))]
    return mean_score(name, scores, (0.0, 1.0), details=details, samples=samples_of(drawn, values))


def sizes_up_to(k: int) -> list[int]:
    """1, 2, 4, … and k."""
    return sorted({k, *(2**i for i in range(k.bit_length()))})


def _verified(
    subject: Subject, data: str, reward: str, split: str, columns: str, limit: int | None, samples: int,
    sampling: Sampling, seed: int,
) -> tuple[Drawn, Values, dict[str, Any]]:  # fmt: skip
    records = records_of(subject, data, "prompt", split, columns, limit)
    checker = reward_for(subject, reward, data, sampling.max_new_tokens)
    try:
        drawn = draw(subject, records, samples, sampling, seed)
        values, failures = drawn.rewards(checker)
    finally:
        checker.close()
    missing = sum(value is None for rewards in values for value in rewards)
    return drawn, values, {"missing": missing, "mean_tokens": round(drawn.mean_tokens, 2), **failures}


def samples_of(drawn: Drawn, values: Values) -> list[dict[str, Any]]:
    """The first answer to each prompt, as samples to read."""
    return [
        {"prompt": record["prompt"], "answer": texts[0], "score": rewards[0]}
        for record, texts, rewards in zip(drawn.records, drawn.texts, values, strict=True)
    ]


# -- the conclusion of an answer ---------------------------------------------------------------------------------


def _majority(texts: list[str], values: list[float | None], conclude: Callable[[str], Hashable | None]) -> float:
    scored = [(text, value) for text, value in zip(texts, values, strict=True) if value is not None]
    return majority([conclude(text) for text, _ in scored], [float(value > RIGHT) for _, value in scored])


def _last_line(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].casefold() if lines else None


CONCLUSIONS: dict[str, Callable[[str], Hashable | None]] = {
    "number": number_of,
    "boxed": boxed,
    "last_line": _last_line,
    "text": lambda text: " ".join(text.casefold().split()) or None,
}
