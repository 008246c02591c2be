"""GKD: Generalised Knowledge Distillation (arXiv:2306.13649).

At each token of an answer the policy's distribution over all words is brought to a teacher's, by a divergence that lies
between the forward and the reverse KL. The answers are a mixture: a share λ is the policy's own, so that it learns in
the states that it gets into, the rest are those of the data. With λ = 0 this is supervised distillation, which needs no
teacher in memory where its log-probs stand in the rows; learning from a teacher's answers alone is `sft` on them.

The rest is in docs/algorithms/gkd.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answers,
    Batch,
    Loss,
    Models,
    Point,
    Record,
    Records,
    TopLogps,
    check_stored_logps,
    require,
    stored_logps,
)  # fmt: skip


class Mixture(Batch):
    """Answers of the policy and of the data. own: bool [B], whether it is the policy's; teacher: with stored."""

    answers: Answers
    own: Tensor
    teacher: TopLogps


class GKD(Algorithm):
    """Generalised knowledge distillation: a teacher's distributions, on given answers and on the policy's own."""

    api_version = 2
    paper = "arXiv:2306.13649"
    data = "demonstration"
    defaults = {
        "lr": [
            Point(135e6, 4e-5, "that of grpo here"),
            Point(135e6, 4e-4, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "batch_size": 16, "max_new_tokens": 96,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: grpo's here. Paper 3e-4 with Adafactor on T5 of 77 M to 800 M weights, after fine-tuning. "
        "Adapters: LoRA Without Regret (thinkingmachines.ai, 2025).",
        "beta": "Neither: TRL's 0.5. Paper: 0.1 to 0.9 and both ends, by the task.",
        "own_share": "Neither: TRL's 0.5. Paper: 1 is the best, 0.5 close to it.",
        "batch_size": "Neither: the starter set gets enough steps. Paper 32 to 128.",
        "max_new_tokens": "Neither: the starter set's answers; set it to the task's.",
    }
    variants = {
        "supervised-kd": {"beta": 0.0, "own_share": 0.0},
        "on-policy-kd": {"beta": 0.0, "own_share": 1.0},
    }
    metrics = {
        "divergence/own": "The divergence on the policy's own answers, mean over the tokens of an answer.",
        "divergence/given": "The same on the answers of the data.",
        "own": "Share of the policy's own answers; λ, up to chance.",
    }

    @dataclass
    class Config:
        beta: float = 0.5
        """β of the generalised Jensen-Shannon divergence. 0 is KL(teacher ‖ policy), 1 is KL(policy ‖ teacher)."""
        own_share: float = 0.5
        """Share λ of the prompts that the policy answers itself; the others have the answer of the data."""
        teacher_top_k: int | None = None
        """Compare the teacher's likeliest words only, all others as one; none for all words."""
        stored: bool = False
        """Read the teacher's log-probs from the rows (zoo label --teacher); none in memory; needs --own-share 0."""

        def __post_init__(self) -> None:
            require(0 <= self.beta <= 1, "beta must be from 0 to 1")
            require(0 <= self.own_share <= 1, "own_share must be from 0 to 1")
            require(self.teacher_top_k is None or self.teacher_top_k >= 1, "teacher_top_k must be at least 1")
            require(
                not self.stored or self.own_share == 0,
                "stored needs own_share 0: no rows have a teacher's log-probs of answers that are yet to be written",
            )
            require(
                not self.stored or self.teacher_top_k is None,
                "stored log-probs have a top_k of their own: leave teacher_top_k out",
            )

    def needs(self, config: Config) -> tuple[str, ...]:
        return ("policy",) if config.stored else ("policy", "teacher")

    def prepare(self, records: Records, config: Config) -> Records:
        """Stored log-probs are looked at before the first step."""
        if config.stored:
            check_stored_logps(records)
        return records

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config) -> Mixture:
        """Algorithm 1: with probability λ the policy answers a prompt itself."""
        own = drawn([prompt["row"] for prompt in prompts], config.own_share)
        asked = [prompt for prompt, is_own in zip(prompts, own, strict=True) if is_own]
        given = [prompt for prompt, is_own in zip(prompts, own, strict=True) if not is_own]
        written = models.policy.generate(asked) if asked else Answers([])
        answers = Answers([*written, *(prompt["completion"] for prompt in given)])
        is_own = torch.arange(len(answers)) < len(written)
        if config.stored:
            return Mixture(answers=answers, own=is_own, teacher=stored_logps(given))
        return Mixture(answers=answers, own=is_own)

    def loss(self, batch: Mixture, models: Models, config: Config) -> Loss:
        """Equation 4: the divergence of equation 2, mean over the tokens of an answer."""
        teacher = batch.teacher if config.stored else models.teacher
        kind: Literal["forward_kl", "reverse_kl", "jsd"] = "jsd"
        if config.beta in (0, 1):
            kind = "reverse_kl" if config.beta else "forward_kl"
        divergence = models.policy.divergence(
            batch.answers, teacher, kind=kind, beta=config.beta, top_k=config.teacher_top_k
        )
        mask = batch.answers.mask
        mean = (divergence * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        return Loss.per_example(mean, {
            "divergence/own": mean.where(batch.own, torch.nan),
            "divergence/given": mean.where(~batch.own, torch.nan),
            "own": batch.own,
        })  # fmt: skip


def drawn(rows: Sequence[int], share: float) -> list[bool]:
    """Whether each of the rows is among a share of them, which chance draws whatever their order."""
    number = int(torch.randint(2**31, ()))
    return [zlib.crc32(f"{number} {row}".encode()) < share * 2**32 for row in rows]
