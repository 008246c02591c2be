"""Diversity of sampled answers: within the answers to one prompt, and across prompts (as in arXiv:2310.06452)."""

from __future__ import annotations

from typing import Literal

from zoo.errors import ZooError
from zoo.evals import Score, Subject, mean_score
from zoo.evals.drawing import draw
from zoo.evals.rows import records_of
from zoo.evals.variety import adjusted_distinct, distinct, self_bleu
from zoo.rollout.engine import Sampling

LONGEST_NGRAM = 5
"""EAD is averaged over n = 1 to 5, as in arXiv:2310.06452."""
MOST_TEXTS = 100
"""Most texts that self-BLEU across prompts compares: its cost is quadratic in their number."""


def diversity(
    subject: Subject, data: str, samples: int = 8, n: int = 2,
    measure: Literal["distinct", "ead", "self_bleu"] = "distinct", split: str = "", columns: str = "",
    limit: int | None = 64, max_new_tokens: int = 64, temperature: float = 1.0, seed: int = 0,
) -> Score:  # fmt: skip
    """How different the answers to one prompt are: distinct n-grams, EAD or self-BLEU, over tokens, mean over prompts.

    The details have all three, per prompt and across prompts (the first answer to each). Counts depend on the number
    of tokens: compare models with the same samples, limit and max_new_tokens.
    """
    if samples < 2 or n < 1 or temperature <= 0:
        raise ZooError(
            "diversity needs two samples or more, an n of 1 or more, and a temperature above 0.",
            "Write for example diversity(data=starter, samples=8, n=2).",
        )
    records = records_of(subject, data, "prompt", split, columns, limit)
    drawn = draw(subject, records, samples, Sampling(max_new_tokens=max_new_tokens, temperature=temperature), seed)
    texts = [[_content(answer.completion.tolist(), subject) for answer in answers] for answers in drawn.answers]
    across = [answers[0] for answers in texts]
    size = len(subject.tokenizer)
    inside = {
        "distinct": [distinct(answers, n) for answers in texts],
        "ead": [_ead(answers, size) for answers in texts],
        "self_bleu": [self_bleu(answers) for answers in texts],
    }
    present = {name: [value for value in values if value is not None] for name, values in inside.items()}
    if not present[measure]:
        raise ZooError(
            f"diversity: no answer to a prompt of {data} is {n} tokens long, so there is nothing to compare.",
            "Use a smaller n, or another measure: n=1, measure=ead.",
        )
    details = {
        **{f"{name}_per_input": sum(values) / len(values) if values else None for name, values in present.items()},
        "distinct_across": distinct(across, n),
        "ead_across": _ead(across, size),
        "self_bleu_across": self_bleu(across[:MOST_TEXTS]),
        "mean_tokens": round(drawn.mean_tokens, 2),
        "without_ngram": len(texts) - len(present[measure]),
    }
    read = [
        {"prompt": record["prompt"], "answer": " | ".join(answers[:3]), "score": inside[measure][i]}
        for i, (record, answers) in enumerate(zip(drawn.records, drawn.texts, strict=True))
    ]
    bounds = None if measure == "ead" else (0.0, 1.0)
    return mean_score(
        "diversity", inside[measure], bounds, higher_is_better=measure != "self_bleu", details=details, samples=read
    )


def _content(ids: list[int], subject: Subject) -> list[int]:
    """The ids without the end-of-turn token, which all answers share."""
    return [token for token in ids if token not in subject.template.eos_ids]


def _ead(texts: list[list[int]], vocabulary: int) -> float | None:
    values = [adjusted_distinct(texts, n, vocabulary) for n in range(1, LONGEST_NGRAM + 1)]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
