"""How likely given texts are under a model: perplexity, forgetting since the start, and the KL to the start."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from zoo.data.encoding.encode import encode
from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score, ratio_score
from zoo.evals.answers import answers_to, score_all
from zoo.evals.divergence import answer_divergences
from zoo.evals.rows import data_of, records_of
from zoo.rollout.engine import Sampling

Kind = Literal["demonstration", "text"]
KINDS: tuple[Kind, Kind] = ("demonstration", "text")


def perplexity(
    subject: Subject, data: str, split: str = "", columns: str = "", limit: int | None = None,
    kind: Kind = "demonstration", max_length: int = 1024,
) -> Score:  # fmt: skip
    """e to the mean negative log-likelihood per token, of texts or of given answers to prompts."""
    losses, tokens = _losses(subject, *_encoded(subject, data, kind, split, columns, limit, max_length))
    loss = ratio_score("perplexity", losses, tokens, higher_is_better=False)
    low, value, high = (math.exp(min(nats, 700.0)) for nats in (loss.low, loss.value, loss.high))
    # What a case contributes to the exponential, to first order.
    cases = [value * (1 + case - loss.value) for case in loss.cases]
    details = {"loss": loss.value, "tokens": sum(tokens)}
    return replace(loss, value=value, low=low, high=high, details=details, cases=cases)


def forgetting(
    subject: Subject, data: str, split: str = "", columns: str = "", limit: int | None = None,
    kind: Kind = "demonstration", max_length: int = 1024,
) -> Score:  # fmt: skip
    """Rise of the negative log-likelihood per token since the start, in nats, on texts that the start could model."""
    answers = _encoded(subject, data, kind, split, columns, limit, max_length)
    (now, tokens), (before, _) = _losses(subject, *answers), _losses(subject.compared, *answers)
    risen = [a - b for a, b in zip(now, before, strict=True)]
    total = sum(tokens)
    details = {"loss": sum(now) / total, "loss_of_start": sum(before) / total, "tokens": total}
    return ratio_score("forgetting", risen, tokens, higher_is_better=False, details=details)


def kl(
    subject: Subject, data: str, split: str = "", columns: str = "", limit: int | None = None,
    max_new_tokens: int = 64, seed: int = 0,
) -> Score:  # fmt: skip
    """KL(π ‖ π₀) to the start in nats per answer, over answers that the model samples at temperature 1."""
    records = records_of(subject, data, "prompt", split, columns, limit)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0)
    answers = answers_to(subject, [record["prompt"] for record in records], sampling, seed)
    values = answer_divergences(
        subject.model, subject.compared.model, answers, subject.precision, subject.progress
    )  # fmt: skip
    tokens = sum(len(answer.completion) for answer in answers)
    details = {"per_token": sum(values) / max(1, tokens), "mean_tokens": tokens / max(1, len(answers))}
    return mean_score("kl", values, higher_is_better=False, details=details)


def _encoded(
    subject: Subject, data: str, kind: Kind, split: str, columns: str, limit: int | None, max_length: int
) -> tuple[Any, ...]:
    """The answers to score; from a file of plain text its texts, whatever the kind. Long texts are split."""
    loaded = data_of(subject, data, (kind, *(other for other in KINDS if other != kind)), split, columns, limit)
    long_rows = "split" if loaded.kind == "text" else "drop"
    encoded = encode(loaded.records, loaded.kind, subject.template, max_length=max_length, long_rows=long_rows).records
    if not encoded:
        raise ZooError(f"No row of {data} is at most {max_length} tokens long.", "Give a larger max_length.")
    return tuple(record["completion"] for record in encoded)


def _losses(subject: Subject, *answers: Any) -> tuple[list[float], list[float]]:
    """Negative log-likelihood and counted tokens of each answer."""
    scored = score_all(subject, list(answers))
    return [-float(logps.sum()[0]) for logps in scored], [float(logps.lengths[0]) for logps in scored]
