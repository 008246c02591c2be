"""BCO: Binary Classifier Optimization (arXiv:2404.04656).

Learns from single answers, each marked good or bad. A binary classifier whose logit is the reward
r(x, y) = β log π(y|x)/π_ref(y|x) should tell good answers from bad ones; its cross-entropy bounds the loss of DPO from
above. The bound is tight when the logit is shifted by δ, the mean reward: here the mean of all rewards so far.

With density_weights bad answers are weighted so that their prompts are those of the good ones.

The rest is in docs/algorithms/bco.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from zoo.api import Algorithm, FeedbackBatch, Loss, Measured, Models, Point, Records, logsigmoid, require, wins

RATIOS = (0.5, 10.0)
"""Density ratios are held within these, as in TRL."""
BUCKETS = 512
"""Numbers of tokens are taken modulo this: so many features has a prompt."""


class BCO(Algorithm):
    """Binary Classifier Optimization: a classifier of good and bad answers whose logit is the policy's own reward."""

    api_version = 2
    paper = "arXiv:2404.04656"
    data = "feedback"
    needs = ("policy", "reference")
    defaults = {
        "lr": [
            Point(135e6, 1e-4, "tuned here"),
            Point(7e9, 5e-7, "the paper's"),
            Point(135e6, 1e-3, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-6, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: appendix C, as TRL transcribes it. Adapters: LoRA Without Regret (thinkingmachines.ai, 2025): "
        "adapters want about ten times the full rate.",
        "beta": "Neither: 0.1, as KTO and TRL. Paper 0.01.",
        "epochs": "Neither: one pass, as KTO.",
        "batch_size": "Tuned here: enough steps on the starter set. Paper 128.",
    }
    metrics = {
        "delta": "δ, the mean of all rewards so far: the classifier's threshold; near 0 at the start.",
        "rewards/desirable": "β times the log-ratio of policy to reference on good answers; should rise above δ.",
        "rewards/undesirable": "The same on bad answers; should fall below δ.",
        "accuracies": "Share of answers on their side of δ: good ones above it, bad ones below; ties count half.",
        "logps/desirable": "log π of good answers, summed.",
        "logps/undesirable": "log π of bad answers, summed.",
        "desirable": "Share of good answers among those of the step.",
        "density_weight": "Weight of bad answers, 1 without density_weights; far from 1 where prompts tell the mark.",
    }
    conformance = {
        "start": {"loss": math.log(2), "delta": 0.0, "rewards/desirable": 0.0, "rewards/undesirable": 0.0},
        "values": [
            {"given": {"policy": {"completion": [-12.5, -20.0, -8.25, -30.0, -14.0, -18.5, -8.25, -45.5]},
                       "reference": {"completion": [-13.0, -19.0, -8.0, -32.5, -13.5, -19.5, -8.75, -40.0]},
                       "fields": {"label": [True, True, True, True, False, False, False, False]}},
             "measured": {"rewards": -0.275, "answers": 8.0}, "loss": 0.6600298084185143},
        ],
    }  # fmt: skip
    saved = ("delta", "answers", "step")

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the reward."""
        density_weights: bool = False
        """Weigh bad answers by p(x | good)/p(x | bad) of their prompt, between 0.5 and 10: for data whose good and bad
        answers come from different prompts (the paper's underlying distribution matching)."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")

    def __init__(self) -> None:
        self.delta, self.answers, self.step = 0.0, 0.0, -1

    def prepare(self, records: Records, config: Config) -> Records:
        """With density weights every record of a bad answer gets its own."""
        if not config.density_weights:
            return records
        labels = torch.as_tensor(records.column("label")).bool()
        ratios = _density_ratios((record["completion"].prompt for record in records), labels)
        return records.with_column("weight", torch.where(labels, 1.0, ratios).numpy())

    def measure(self, batch: FeedbackBatch, models: Models, config: Config) -> Measured:
        """Rewards of the step, summed, and their number."""
        _, reward = self._rewards(batch, models, config)
        return {"rewards": reward.sum(), "answers": len(batch)}

    def loss(self, batch: FeedbackBatch, models: Models, config: Config, step: int) -> Loss:
        """−log σ(r − δ) for good answers, −log σ(−(r − δ)) for bad ones."""
        if models.training and step != self.step:
            self._see(batch.measured, step)
        policy, reward = self._rewards(batch, models, config)
        good = batch.label.bool()
        above = reward - self.delta
        weight = batch.numbers("weight", reward, 1.0)
        return Loss.per_example(-weight * logsigmoid(torch.where(good, above, -above)), {
            "delta": torch.full_like(reward, self.delta),
            "rewards/desirable": reward.where(good, torch.nan),
            "rewards/undesirable": reward.where(~good, torch.nan),
            "accuracies": wins(torch.where(good, above, -above), config.beta),
            "logps/desirable": policy.where(good, torch.nan),
            "logps/undesirable": policy.where(~good, torch.nan),
            "desirable": good,
            "density_weight": weight.where(~good, torch.nan),
        })  # fmt: skip

    def _see(self, measured: Mapping[str, Tensor], step: int) -> None:
        """Take a step's rewards into δ: once, from numbers that all micro-batches and processes share."""
        rewards, count = float(measured["rewards"]), float(measured["answers"])
        self.delta = (self.delta * self.answers + rewards) / (self.answers + count)
        self.answers, self.step = self.answers + count, step

    def _rewards(self, batch: FeedbackBatch, models: Models, config: Config) -> tuple[Tensor, Tensor]:
        """log π(y|x), and r = β log π(y|x)/π_ref(y|x)."""
        policy = models.policy.logps(batch.completion).sum()
        return policy, config.beta * (policy - models.reference.logps(batch.completion).sum())


def _density_ratios(prompts: Iterable[Tensor], good: Tensor) -> Tensor:
    """p(x | good)/p(x | bad) of N prompts (ids [P]), float64 [N]; good: bool [N]. Needs 4 KB for each."""
    features = torch.zeros(len(good), BUCKETS, dtype=torch.float64)
    different: dict[tuple[int, ...], int] = {}
    numbers = torch.zeros(len(good), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        features[i] += torch.bincount(prompt.cpu() % BUCKETS, minlength=BUCKETS)
        numbers[i] = different.setdefault(tuple(prompt.tolist()), len(different))
    features = normalize(features, out=features)
    # Each half of the different prompts is judged by what the other half shows: its own marks would give a prompt away.
    order = torch.tensor([different[ids] for ids in sorted(different)])
    half = (order.argsort() % 2)[numbers]
    ratios = torch.ones(len(good), dtype=torch.float64)
    for side in (0, 1):
        fitted = half != side
        if len(good[fitted].unique()) < 2:
            warnings.warn("Too few prompts have answers of both marks: the density weights are 1.", stacklevel=2)
            return torch.ones_like(ratios)
        # With classes of equal weight the odds are the ratio of the densities.
        ratios[~fitted] = (features[~fitted] @ _classifier(features[fitted], good[fitted])).exp()
    return ratios.clamp(*RATIOS)


@torch.enable_grad()
def _classifier(features: Tensor, good: Tensor) -> Tensor:
    """Weights of a logistic regression with balanced classes and a penalty of ½|w|²; features [N, F] → [F]."""
    weights = torch.zeros(features.shape[1], dtype=features.dtype, requires_grad=True)
    balance = torch.where(good, 1 / good.sum(), 1 / (~good).sum()) * len(good) / 2
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(features @ weights, good.double(), balance, reduction="sum")
        loss = loss + weights.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(objective)
    return weights.detach()
