"""BCO: Binary Classifier Optimization (arXiv:2404.04656).

Learns from single answers, each marked good or bad. A binary classifier whose logit is the reward
r(x, y) = β log π(y|x)/π_ref(y|x) should tell good answers from bad ones; its cross-entropy bounds the loss of DPO from
above. The bound is tight when the logit is shifted by δ, the mean reward.

δ is the mean of all rewards seen so far, the current step's included, good and bad alike (as in TRL; TRL's `bco_pair`
loss of the DPO trainer has no δ). It is brought up to date once an optimizer step, from the whole step, without
gradient; held-out data leaves it alone. The paper's weights for bad answers to prompts of another distribution than
the good ones' (a density ratio from a classifier on embedded prompts) are left out: answers of both marks should
come from the same prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from zoo.api import Algorithm, Loss, logsigmoid, require


class BCO(Algorithm):
    """Binary Classifier Optimization: a classifier of good and bad answers whose logit is the policy's own reward."""

    paper = "arXiv:2404.04656"
    data = "feedback"
    needs = ("policy", "reference")
    defaults = {"lr": 1e-4, "epochs": 1, "batch_size": 8}
    metrics = {
        "delta": "δ, the mean of all rewards so far: the classifier's threshold; near 0 at the start.",
        "rewards/desirable": "β times the log-ratio of policy to reference on good answers; should rise above δ.",
        "rewards/undesirable": "The same on bad answers; should fall below δ.",
        "accuracies": "Share of answers on their side of δ: good ones above it, bad ones below.",
        "logps/desirable": "log π of good answers, summed.",
        "logps/undesirable": "log π of bad answers, summed.",
        "desirable": "Share of good answers among those of the step.",
    }
    conformance = {"start": {"loss": math.log(2), "delta": 0.0, "rewards/desirable": 0.0, "rewards/undesirable": 0.0}}
    saved = ("delta", "answers", "step")

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the reward; TRL takes 0.1 too."""

        def __post_init__(self):
            require(self.beta > 0, "beta must be above 0")

    def __init__(self):
        self.delta, self.answers, self.step = 0.0, 0.0, -1

    def measure(self, batch, models, config):
        """Rewards of the step, summed, and their number."""
        _, reward = self._rewards(batch, models, config)
        return {"rewards": reward.sum(), "answers": len(batch)}

    def loss(self, batch, models, config, step):
        """−log σ(r − δ) for good answers, −log σ(−(r − δ)) for bad ones."""
        if models.training and step != self.step:
            self._see(batch.measured, step)
        policy, reward = self._rewards(batch, models, config)
        good = batch.label.bool()
        above = reward - self.delta
        return Loss.per_example(-logsigmoid(torch.where(good, above, -above)), {
            "delta": torch.full_like(reward, self.delta),
            "rewards/desirable": reward.where(good, torch.nan),
            "rewards/undesirable": reward.where(~good, torch.nan),
            "accuracies": torch.where(good, above > 0, above < 0),
            "logps/desirable": policy.where(good, torch.nan),
            "logps/undesirable": policy.where(~good, torch.nan),
            "desirable": good,
        })  # fmt: skip

    def _see(self, measured, step):
        """Take a step's rewards into δ: once, from numbers that all micro-batches and processes share."""
        rewards, count = float(measured["rewards"]), float(measured["answers"])
        self.delta = (self.delta * self.answers + rewards) / (self.answers + count)
        self.answers, self.step = self.answers + count, step

    def _rewards(self, batch, models, config):
        """log π(y|x), and r = β log π(y|x)/π_ref(y|x)."""
        policy = models.policy.logps(batch.completion).sum()
        return policy, config.beta * (policy - models.reference.logps(batch.completion).sum())
