"""Answers to a few held-out prompts, before and after training: something to read where no evaluation writes any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.evals import Subject
from zoo.evals.answers import generate
from zoo.evals.drawing import text_of
from zoo.libraries.architecture import longest_text
from zoo.rollout.engine import Sampling
from zoo.values.answers import answers_in
from zoo.values.records import first_of_each

PROMPTS = 2
LOOKED_AT = 20
"""Held-out records among which the prompts are looked for."""
SAMPLING = Sampling(max_new_tokens=64, temperature=0.0)


def answers_to_some(subject: Subject, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Greedy answers to the first prompts of held-out records, as samples; none to texts, which have no prompt."""
    asked = _asked(records, longest_text(subject.model))
    answers = generate(subject, [prompt for _, prompt in asked], SAMPLING, seed=0) if asked else []
    return [
        {"prompt": prompt, "answer": text_of(subject, answer), "score": None, "length": len(answer.completion),
         "cut": answer.cut}
        for (prompt, _), answer in zip(asked, answers, strict=True)
    ]  # fmt: skip


def _asked(records: Sequence[dict[str, Any]], longest: int | None) -> list[tuple[Any, Tensor]]:
    """Different prompts, and their tokens, that leave room for an answer."""
    asked: list[tuple[Any, Tensor]] = []
    for record in first_of_each(records, LOOKED_AT):
        prompt, answers = record.get("record", {}).get("prompt"), answers_in(record)
        room = longest is None or not answers or len(answers[0].prompt) + SAMPLING.max_new_tokens <= longest
        if prompt and answers and room and all(prompt != other for other, _ in asked):
            asked.append((prompt, answers[0].prompt))
    return asked[:PROMPTS]
