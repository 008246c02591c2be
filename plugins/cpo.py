"""CPO: Contrastive Preference Optimization (arXiv:2401.08417).

DPO with the reference taken for uniform, so that it drops out and no second model is held, and the likelihood of the
chosen answer added, so that the policy stays near good answers. Made for machine translation (ALMA-R). Log-probs are
sums over the answer.

The rest is in docs/algorithms/cpo.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.api import Algorithm, Loss, Measured, Models, Point, PreferenceBatch, logsigmoid, require, wins


class CPO(Algorithm):
    """Contrastive Preference Optimization: DPO without a reference, held by the likelihood of the chosen answer."""

    api_version = 2
    paper = "arXiv:2401.08417"
    data = "preference"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 5e-5, "zoo's"),
            Point(13e9, 1e-5, "LoRA Without Regret's tenth of ALMA-R's"),
            Point(135e6, 5e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(13e9, 1e-4, "ALMA-R's", lora=True),
        ],
        "epochs": 1, "batch_size": 16,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: the authors' code trains adapters, at 1e-4. For all weights a tenth of it, since LoRA Without "
        "Regret (thinkingmachines.ai, 2025) finds that adapters want about ten times the full rate.",
        "beta": "Paper: 0.1.",
        "nll_weight": "Paper: 1.",
        "epochs": "Paper: one pass.",
        "batch_size": "Neither: the starter set gets enough steps.",
    }
    metrics = {
        "prefer": "The preference term alone.",
        "nll": "−log π per token, over all chosen tokens of the step: the likelihood term.",
        "rewards/chosen": "β·log π(y|x) of chosen answers, summed over tokens.",
        "rewards/rejected": "The same of rejected answers; should fall below rewards/chosen.",
        "rewards/margins": "rewards/chosen − rewards/rejected; depends on the lengths of the two from the start.",
        "rewards/accuracies": "Share of pairs whose margin is above 0; ties count half.",
        "logps/chosen": "log π of chosen answers, summed.",
        "logps/rejected": "log π of rejected answers, summed.",
    }
    conformance = {
        "variants": [{"label_smoothing": 0.1}],
        "values": [
            {"given": {"policy": {"chosen": [-12.5, -20.0, -8.25, -30.0], "rejected": [-14.0, -18.5, -8.25, -45.5]},
                       "lengths": {"chosen": [10, 16, 5, 24]}},
             "measured": {"chosen_length": 13.75}, "loss": 1.8557480717950334},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the difference of log-probabilities. Paper 0.1."""
        loss: Literal["sigmoid", "hinge"] = "sigmoid"
        """sigmoid: −log σ(z) with z = β(log π_c − log π_r), the paper's; hinge: max(0, 1 − z)."""
        label_smoothing: float = 0.0
        """Share ε of pairs that are taken to be flipped; with sigmoid only."""
        nll_weight: float = 1.0
        """Weight of the likelihood term. Paper 1; TRL calls it cpo_alpha."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(0 <= self.label_smoothing < 0.5, "label_smoothing must be at least 0 and below 0.5")
            require(not self.label_smoothing or self.loss != "hinge", "label_smoothing has no meaning with loss=hinge")
            require(self.nll_weight >= 0, "nll_weight must be at least 0")

    def measure(self, batch: PreferenceBatch) -> Measured:
        """Tokens of a chosen answer on average: with it the NLL term is a mean over all tokens of the step."""
        return {"chosen_length": (batch.chosen.lengths.sum(), len(batch))}

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """The preference term, and the likelihood of the chosen answer."""
        chosen, rejected = models.policy.logps(batch.chosen, batch.rejected)
        rewards = [config.beta * logps.sum() for logps in (chosen, rejected)]
        margin = rewards[0] - rewards[1]
        e = config.label_smoothing
        prefer = -(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin)
        if config.loss == "hinge":
            prefer = (1 - margin).clamp(min=0)
        nll = -chosen.sum() / batch.measured["chosen_length"]
        return Loss.per_example(prefer + config.nll_weight * nll, {
            "prefer": prefer,
            "nll": (-chosen.per_token, chosen.mask),
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": margin,
            "rewards/accuracies": wins(margin, config.beta),
            "logps/chosen": chosen.sum(),
            "logps/rejected": rejected.sum(),
        })  # fmt: skip
