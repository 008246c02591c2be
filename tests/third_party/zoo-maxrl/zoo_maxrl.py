"""MaxRL: Maximum Likelihood Reinforcement Learning (arXiv:2602.02710).

Where an answer is right or wrong, the likelihood to maximise is log p of a right answer, and its gradient is that of
p, divided by p. So the advantage of an answer is its reward minus the group's mean, divided by the mean: prompts that
are rarely answered right weigh more. A group without a right answer teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.api import Algorithm, Answers, Batch, Loss, Models, Ragged, Record, Reward, clipped_surrogate, require


class Tried(Batch):
    """Answers in groups. advantage: [B, T]; right, kept: [B]."""

    answers: Answers
    advantage: Tensor
    right: Tensor
    kept: Tensor


class MaxRL(Algorithm):
    """Maximum Likelihood Reinforcement Learning: right answers to hard prompts become likelier; no critic."""

    api_version = 2
    paper = "arXiv:2602.02710"
    data = "prompt"
    defaults = {"lr": 1e-6, "answers_per_prompt": 8, "batch_size": 64}
    metrics = {
        "right": "Share of right answers.",
        "clipped": "Share of tokens that the clip holds.",
    }
    conformance = {"flat": [{}], "variants": [{"threshold": 0.3}]}

    @dataclass
    class Config:
        threshold: float = 0.5
        """An answer is right if its reward is at least this."""
        clip: float = 0.2
        """ε of PPO's clip, as in the authors' code."""

        def __post_init__(self) -> None:
            require(0 < self.clip < 1, "clip must be above 0 and below 1")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Tried:
        """Groups of answers with their advantages."""
        answers = models.policy.generate(prompts)
        rewards = score(answers).double().view(len(prompts), -1)
        right = (rewards >= config.threshold).double().where(~rewards.isnan(), torch.nan)
        advantage = advantages(right).flatten()[:, None] * answers.mask
        kept = ~right.flatten().isnan()
        return Tried(
            answers=answers,
            advantage=Ragged(advantage.to(answers.behaviour.dtype), answers),
            right=right.flatten().nan_to_num(),
            kept=kept,
        )

    def loss(self, batch: Tried, models: Models, config: Config) -> Loss:
        """PPO's clipped loss, mean over tokens."""
        logps = models.policy.logps(batch.answers)
        mask = logps.mask & batch.kept[:, None]
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        log_ratio = (logps.per_token - old) * mask
        surrogate = clipped_surrogate(log_ratio, batch.advantage, config.clip, config.clip)
        clipped = surrogate.clipped_low | surrogate.clipped_high
        losses = surrogate.loss * batch.answers.correction
        return Loss.weighted(losses * mask, mask, {"right": (batch.right, batch.kept), "clipped": (clipped, mask)})


def advantages(right: Tensor) -> Tensor:
    """(r − mean)/mean of groups, [P, G] of 0, 1 and NaN for missing ones; 0 where none or all are right."""
    mean = right.nanmean(1, keepdim=True)
    return ((right - mean) / mean.clamp(min=1e-6)).nan_to_num(0.0)
