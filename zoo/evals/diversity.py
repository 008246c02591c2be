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
"""EAD is averaged over 1 to 5, as in arXiv:2310.06452."""
MOST_TEXTS = 100
"""Texts that self-BLEU across prompts compares: its work grows with their square."""


def diversity(
    subject: Subject, data: str, samples: int = 8, n: int = 2,
    measure: Literal["distinct", "ead", "self_bleu"] = "distinct", split: str = "", columns: str = "",
    limit: int | None = 64, max_new_tokens: int = 64, temperature: float = 1.0, seed: int = 0,
) -> Score:  # fmt: skip
    """How different the answers to one prompt are: distinct n-grams, EAD or self-BLEU, over tokens, mean over prompts.

    All three stand in the details, per prompt and across prompts (the first answer to each). Counts need numbers of
    tokens that are alike: compare models at the same samples, limit and max_new_tokens.
    """
    if samples < 2 or n < 1 or temperature <= 0:
        raise ZooError(
            "diversity needs two samples or more, an n of 1 or more, and a temperature above 0.",
            "Write for example diversity(data=starter, samples=8, n=2).",
        )
    records = records_of(subject, data, "prompt", split, columns, limit)
    drawn = draw(subject, records, samples, Sampling(max_new_tokens=max_new_tokens, temperature=temperature), seed)
    texts = [[_content(answer.completion.tolist(), subject) for answer in answers] for answers in drawn.answers]
    across = [some[0] for some in texts]
    size = len(subject.tokenizer)
    inside = {
        "distinct": [distinct(some, n) for some in texts],
        "ead": [_ead(some, size) for some in texts],
        "self_bleu": [self_bleu(some) for some in texts],
    }
    found = {name: [value for value in values if value is not None] for name, values in inside.items()}
    if not found[measure]:
        raise ZooError(
            f"diversity: no answer to a prompt of {data} is {n} tokens long, so there is nothing to compare.",
            "Take a smaller n, or another measure: n=1, measure=ead.",
        )
    details = {
        **{f"{name}_per_input": sum(values) / len(values) if values else None for name, values in found.items()},
        "distinct_across": distinct(across, n),
        "ead_across": _ead(across, size),
        "self_bleu_across": self_bleu(across[:MOST_TEXTS]),
        "mean_tokens": round(drawn.mean_tokens, 2),
        "without_ngram": len(texts) - len(found[measure]),
    }
    read = [
        {"prompt": record["prompt"], "answer": " | ".join(some[:3]), "score": inside[measure][i]}
        for i, (record, some) in enumerate(zip(drawn.records, drawn.texts, strict=True))
    ]
    bounds = None if measure == "ead" else (0.0, 1.0)
    return mean_score(
        "diversity", inside[measure], bounds, higher_is_better=measure != "self_bleu", details=details, samples=read
    )


def _content(ids: list[int], subject: Subject) -> list[int]:
    """Without the end of the turn, which all answers share."""
    return [token for token in ids if token not in subject.template.eos_ids]


def _ead(texts: list[list[int]], vocabulary: int) -> float | None:
    values = [adjusted_distinct(texts, n, vocabulary) for n in range(1, LONGEST_NGRAM + 1)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
