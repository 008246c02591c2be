"""OPD: on-policy distillation (Thinking Machines, 2025; Qwen3, arXiv:2505.09388).

The policy writes answers, and a teacher says how likely it holds each of their tokens. What a token gains or loses by
that, log π_teacher − log π, is its advantage: reinforcement learning with a reward on every token, whose expected
gradient is that of the reverse KL to the teacher, in the states that the policy itself gets into.

The rest is in docs/algorithms/opd.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.api import Algorithm, Answers, Batch, Loss, Models, Point, Ragged, Record, require


class Lessons(Batch):
    """The policy's answers, and at each token its advantage and the reverse KL as it was sampled, [B, T]."""

    answers: Answers
    advantage: Tensor
    reverse_kl: Tensor


class OPD(Algorithm):
    """On-policy distillation: a teacher scores each token of the policy's own answers."""

    api_version = 2
    paper = "arXiv:2505.09388"
    data = "prompt"
    needs = ("policy", "teacher")
    defaults = {
        "lr": [
            Point(135e6, 4e-5, "that of grpo here"),
            Point(8e9, 5e-5, "Thinking Machines'"),
            Point(135e6, 4e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(8e9, 1e-4, "Thinking Machines'", lora=True),
        ],
        "schedule": "constant", "batch_size": 64, "answers_per_prompt": 4, "max_new_tokens": 96,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: Thinking Machines' 5e-5, adapters 1e-4, for Qwen3 8B (tinker-cookbook). Below, "
        "grpo's, adapters at ten times that by LoRA Without Regret (thinkingmachines.ai, 2025).",
        "discount": "Neither: Thinking Machines' 0, as nothing above it was better.",
        "schedule": "Neither: constant, as Thinking Machines'.",
        "batch_size": "Neither: 16 prompts with 4 answers each. Thinking Machines 512 prompts with 4.",
        "answers_per_prompt": "Neither: Thinking Machines' 4.",
        "max_new_tokens": "Neither: the starter set's answers; set it to the task's.",
    }
    metrics = {
        "reverse_kl": "log π_old − log π_teacher of the sampled tokens, mean: an estimate of KL(π ‖ π_teacher).",
        "ratio": "ρ = π/π_old, mean over tokens: exactly 1 in the first step after a rollout, near 1 later.",
        "entropy": "Entropy of the policy, mean over tokens; it goes to the teacher's.",
        "teacher_logp": "log π_teacher of the sampled tokens, mean.",
    }
    conformance = {"start": {"ratio": 1.0}, "variants": [{"discount": 0.9}]}

    @dataclass
    class Config:
        discount: float = 0.0
        """Discount γ of what the tokens behind a token cost. 0: each token answers for itself alone."""

        def __post_init__(self) -> None:
            require(0 <= self.discount <= 1, "discount must be from 0 to 1")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config) -> Lessons:
        """Answers of the policy, and what the teacher says of each token."""
        answers = models.policy.generate(prompts)
        teacher = models.teacher.logps(answers)
        reverse_kl = (answers.behaviour - teacher.per_token) * teacher.mask
        return Lessons(
            answers=answers,
            advantage=Ragged(-discounted(reverse_kl, teacher.mask, config.discount), answers),
            reverse_kl=Ragged(reverse_kl, answers),
        )

    def loss(self, batch: Lessons, models: Models, config: Config) -> Loss:
        """−Σ ρ_t A_t over the tokens of all answers, by their number: importance sampling, without a clip."""
        logps = models.policy.logps(batch.answers, entropy=True)
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        ratio = ((logps.per_token - old) * logps.mask).exp()
        losses = -ratio * batch.advantage * batch.answers.correction
        return Loss.per_token(losses, logps.mask, {
            "reverse_kl": batch.reverse_kl,
            "ratio": ratio,
            "entropy": logps.entropy,
            "teacher_logp": batch.answers.behaviour - batch.reverse_kl,
        })  # fmt: skip


def discounted(costs: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Σ_k γᵏ c_{t+k} of each token, [B, T] as the costs; k counts tokens under the mask."""
    total, sums = torch.zeros_like(costs[:, 0]), []
    for cost, counts in zip(costs.flip(-1).unbind(-1), mask.flip(-1).unbind(-1), strict=True):
        total = torch.where(counts, cost + discount * total, total)
        sums.append(total)
    return torch.stack(sums[::-1], -1)
