"""Samples several answers to each prompt from a model, and scores them with a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.evals import Subject
from zoo.evals.answers import generate
from zoo.rewards.reward import Reward, Scored
from zoo.rollout.engine import Sampling
from zoo.values.types import Answer


@dataclass
class Drawn:
    """`samples` answers to each prompt: records [P], and for each of them tokens and texts of its answers."""

    records: list[dict[str, Any]]
    answers: list[list[Answer]]
    texts: list[list[str]]

    def rewards(self, reward: Reward) -> tuple[list[list[float | None]], dict[str, int]]:
        """For each prompt the rewards of its answers, None if missing; and the reasons, with counts."""
        scored = self.scored(reward)
        return self.by_prompt(scored.values), scored.failures

    def scored(self, reward: Reward) -> Scored:
        """All answers, one prompt after the other."""
        flat = [answer for answers in self.answers for answer in answers]
        each = [record for record, texts in zip(self.records, self.texts, strict=True) for _ in texts]
        tokens = [len(answer.completion) for answer in flat]
        texts = [text for answers_of_prompt in self.texts for text in answers_of_prompt]
        return reward.detailed(texts, each, [answer.ended for answer in flat], tokens)

    def by_prompt(self, values: Sequence[float | None]) -> list[list[float | None]]:
        left = iter(values)
        return [[next(left) for _ in texts] for texts in self.texts]

    @property
    def mean_tokens(self) -> float:
        lengths = [len(answer.completion) for answers in self.answers for answer in answers]
        return sum(lengths) / max(1, len(lengths))


def draw(subject: Subject, records: Sequence[dict[str, Any]], samples: int, sampling: Sampling, seed: int) -> Drawn:
    """Answers to the prompts of records, sampled once per subject for all evaluations; one per prompt if greedy."""
    samples = 1 if sampling.greedy else samples
    prompts = [torch.tensor(subject.template.prompt_ids(record["prompt"])) for record in records]
    key = ("drawn", repr(sampling), samples, seed, tuple(tuple(prompt.tolist()) for prompt in prompts))
    if key not in subject.answered:
        subject.answered[key] = generate(subject, prompts, sampling, seed, samples)
    flat = subject.answered[key]
    answers = [flat[i : i + samples] for i in range(0, len(flat), samples)]
    return Drawn(
        list(records),
        answers,
        [[text_of(subject, answer) for answer in answers_of_prompt] for answers_of_prompt in answers],
    )


def text_of(subject: Subject, answer: Answer) -> str:
    """An answer as text without special tokens."""
    return subject.tokenizer.decode(answer.completion, skip_special_tokens=True).strip()
