"""GDPO: Group reward-Decoupled Normalization Policy Optimization (arXiv:2601.05242).

With several rewards, GRPO adds them up and normalises the sum, so that different rewards of two answers may give the
same advantage. GDPO normalises each reward in its group, adds up the results by their weights, and normalises the sum
over the rollout.

The rewards here are the run's and one for answers within a length, as in the paper's section on mathematics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answers,
    Batch,
    Loss,
    Models,
    Ragged,
    Record,
    Reward,
    clipped_surrogate,
    group_advantages,
    require,
)


class Decoupled(Batch):
    """Answers in groups. advantage: [B, T]; short, kept: [B]."""

    answers: Answers
    advantage: Tensor
    short: Tensor
    kept: Tensor


class GDPO(Algorithm):
    """Group reward-Decoupled Normalization: each reward is compared within its group before they are added up."""

    api_version = 2
    paper = "arXiv:2601.05242"
    data = "prompt"
    defaults = {"lr": 1e-6, "answers_per_prompt": 8, "batch_size": 64}
    metrics = {
        "short": "Share of answers within the length.",
        "clipped": "Share of tokens that the clip holds.",
    }
    conformance = {"flat": [{"length": 1000}], "variants": [{"length": 3}]}

    @dataclass
    class Config:
        length: int = 64
        """Tokens within which an answer earns the second reward."""
        length_weight: float = 1.0
        """Weight of the second reward."""
        clip: float = 0.2
        """ε of PPO's clip."""

        def __post_init__(self) -> None:
            require(self.length >= 1, "length must be at least 1")
            require(self.length_weight >= 0, "length_weight must be at least 0")
            require(0 < self.clip < 1, "clip must be above 0 and below 1")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Decoupled:
        """Groups of answers with their advantages."""
        answers = models.policy.generate(prompts)
        rewards = score(answers).double()
        short = (answers.lengths.to(rewards.device) <= config.length).double()
        kept = ~rewards.isnan()
        both = torch.stack([rewards, short.where(kept, torch.nan)]).view(2, len(prompts), -1)
        advantage = advantages(both, [1.0, config.length_weight]).flatten()[:, None] * answers.mask
        advantage = Ragged(advantage.to(answers.behaviour.dtype), answers)
        return Decoupled(answers=answers, advantage=advantage, short=short, kept=kept)

    def loss(self, batch: Decoupled, models: Models, config: Config) -> Loss:
        """PPO's clipped loss, mean over the tokens of each answer and then over answers."""
        logps = models.policy.logps(batch.answers)
        mask = logps.mask & batch.kept[:, None]
        old = logps.per_token.detach() if batch.on_policy else batch.answers.behaviour
        surrogate = clipped_surrogate((logps.per_token - old) * mask, batch.advantage, config.clip, config.clip)
        clipped = surrogate.clipped_low | surrogate.clipped_high
        losses = (surrogate.loss * batch.answers.correction * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        return Loss.weighted(losses, batch.kept, {"short": (batch.short, batch.kept), "clipped": (clipped, mask)})


def advantages(rewards: Tensor, weights: Sequence[float]) -> Tensor:
    """Of K rewards of groups, [K, P, G] with NaN for missing ones: float64 [P, G], 0 where one is missing."""
    total = sum(weight * group_advantages(one) for weight, one in zip(weights, rewards, strict=True))
    present = ~rewards.isnan().any(0)
    some = total[present]
    if len(some) < 2 or some.max() == some.min():
        return torch.zeros_like(total)
    return ((total - some.mean()) / (some.std() + 1e-4)).where(present, 0.0)
