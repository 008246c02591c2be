"""IFEval (arXiv:2311.07911): whether answers follow instructions that small programs can check, on its own prompts."""

from __future__ import annotations

from zoo.evals import Score, Subject, share_score
from zoo.evals.drawing import draw
from zoo.evals.rows import records_of, reward_for
from zoo.rollout.engine import Sampling

NUMBERS = {
    "prompt_strict": "ifeval(level=prompt)",
    "instruction_strict": "ifeval",
    "prompt_loose": "ifeval(level=prompt, loose=yes)",
    "instruction_loose": "ifeval(loose=yes)",
}
"""The benchmark's four numbers, and the reward that each is a mean of."""


def ifeval(
    subject: Subject, data: str = "google/IFEval", split: str = "", columns: str = "", limit: int | None = None,
    max_new_tokens: int = 1280, temperature: float = 0.0, seed: int = 0,
) -> Score:  # fmt: skip
    """Share of the prompts whose instructions are all followed, strictly; the details have the other three numbers."""
    reward = reward_for(subject, " + ".join(NUMBERS.values()), data, max_new_tokens)
    try:
        records = records_of(subject, data, "prompt", split, columns, limit)
        drawn = draw(subject, records, 1, Sampling(max_new_tokens=max_new_tokens, temperature=temperature), seed)
        scored = drawn.scored(reward)
    finally:
        reward.close()
    columns_of = dict(zip(NUMBERS, (scored.parts[mention.label] for mention in reward.functions), strict=True))
    right = columns_of["prompt_strict"]
    # An instruction counts alike in a prompt of one and in a prompt of three.
    counts = [len(record.get("instruction_id_list") or ()) for record in records]
    shares = {
        name: _mean(values, counts if name.startswith("instruction") else [1] * len(counts))
        for name, values in columns_of.items()
    }
    details = {**shares, "missing": right.count(None), "mean_tokens": round(drawn.mean_tokens, 2), **scored.failures}
    samples = [
        {"prompt": record["prompt"], "answer": texts[0], "score": share}
        for record, texts, share in zip(drawn.records, drawn.texts, columns_of["instruction_strict"], strict=True)
    ]
    return share_score("ifeval", right, details=details, samples=samples)


def _mean(values: list[float | None], weights: list[int]) -> float:
    """The weighted mean of the values that there are."""
    present = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(value * weight for value, weight in present) / max(1, sum(weight for _, weight in present))
