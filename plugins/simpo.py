"""SimPO: Simple Preference Optimization (arXiv:2405.14734).

The reward of an answer is β times its mean log-probability per token, the very score by which answers are generated. So
no reference model is needed, and length brings no advantage. The chosen answer's reward should exceed the rejected
one's by a margin γ. Nothing but a small learning rate and few epochs holds the policy near its start.

The rest is in docs/algorithms/simpo.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.api import Algorithm, Loss, Measured, Models, Point, PreferenceBatch, logsigmoid, require, wins


class SimPO(Algorithm):
    """Simple Preference Optimization: length-normalised rewards with a margin, and no reference model."""

    api_version = 2
    paper = "arXiv:2405.14734"
    data = "preference"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 1e-5, "tuned here"),
            Point(8e9, 6e-7, "the authors'"),
            Point(135e6, 1e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(8e9, 6e-6, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: its repository's llama-3-8b-base-simpo.yaml; its models have 3e-7 to 1e-6. Adapters: LoRA "
        "Without Regret (thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "beta": "Paper: 2.0, for Llama 3 Base.",
        "gamma": "Paper: γ/β = 0.5, for Llama 3 Base.",
        "epochs": "Paper: one pass.",
        "batch_size": "Tuned here: enough steps on the starter set. Paper 128, which its authors advise to keep.",
    }
    metrics = {
        "rewards/chosen": "β·log π(y|x)/|y| of chosen answers.",
        "rewards/rejected": "The same of rejected answers; should fall below rewards/chosen by γ and more.",
        "rewards/margins": "rewards/chosen − rewards/rejected, before γ is taken off.",
        "rewards/accuracies": "Share of pairs whose margin is above 0, ties counted half; γ is left out here, as in "
        "the authors' code.",
        "logps/chosen": "log π(y|x)/|y| of chosen answers. It often falls too: then both answers lose probability.",
        "logps/rejected": "The same of rejected answers.",
        "lengths/chosen": "Tokens of chosen answers: where these are longer, length is a rule that could be learned.",
        "lengths/rejected": "The same of rejected answers.",
        "nll": "−log π per token, over all chosen tokens of the step: the term of sft_weight.",
    }
    conformance = {
        "variants": [{"sft_weight": 1.0, "label_smoothing": 0.1}],
        "values": [
            {"given": {"policy": {"chosen": [-12.5, -20.0, -8.25, -30.0], "rejected": [-14.0, -18.5, -8.25, -45.5]},
                       "lengths": {"chosen": [10, 16, 5, 24], "rejected": [12, 14, 5, 36]}},
             "options": {"beta": 2.0, "gamma": 1.0}, "loss": 1.3137328072291412},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        beta: float = 2.0
        """Scale β of the reward. Paper 2.0 to 2.5, its later models 10."""
        gamma: float = 1.0
        """Target margin γ, subtracted after β. Paper 0.5 to 1.5; the gamma_beta_ratio of its code is γ/β."""
        label_smoothing: float = 0.0
        """Share ε of pairs that are taken to be flipped."""
        sft_weight: float = 0.0
        """Weight of the likelihood of chosen answers, a mean over all their tokens in the step."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(self.gamma >= 0, "gamma must be at least 0")
            require(0 <= self.label_smoothing < 0.5, "label_smoothing must be at least 0 and below 0.5")
            require(self.sft_weight >= 0, "sft_weight must be at least 0")

    def measure(self, batch: PreferenceBatch, config: Config) -> Measured:
        """Tokens of a chosen answer on average: with it the NLL term is a mean over all tokens of the step."""
        return {"chosen_length": (batch.chosen.lengths.sum(), len(batch))} if config.sft_weight else {}

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """Equation 6."""
        chosen, rejected = models.policy.logps(batch.chosen, batch.rejected)
        rewards = [config.beta * logps.mean() for logps in (chosen, rejected)]
        margin = rewards[0] - rewards[1]
        z, e = margin - config.gamma, config.label_smoothing
        losses = -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)
        if config.sft_weight:
            losses = losses - config.sft_weight * chosen.sum() / batch.measured["chosen_length"]
        return Loss.per_example(losses, {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": margin,
            "rewards/accuracies": wins(margin, config.beta),
            "logps/chosen": chosen.mean(),
            "logps/rejected": rejected.mean(),
            "lengths/chosen": chosen.mask.sum(-1),
            "lengths/rejected": rejected.mask.sum(-1),
            "nll": (-chosen.per_token, chosen.mask),
        })  # fmt: skip
