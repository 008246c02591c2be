"""PRM: a process reward model, which says of each step of a solution whether it is right (arXiv:2305.20050).

A scalar head s at the last token of each step; σ(s) is the probability that the step is right. The loss is the
cross-entropy, averaged over labelled steps. A solution scores the product of its steps' probabilities, or the smallest
of them. Nothing is learned behind the first wrong step: what follows from a wrong step has no clear label.

Two classes, where the paper has three; what a neutral step counts as is an option.

The rest is in docs/algorithms/prm.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import Algorithm, Loss, Metric, Models, Point, Records, StepwiseBatch, ZooError, logsigmoid, wins


class PRM(Algorithm):
    """Process reward model: say of each step of a solution whether it is right."""

    api_version = 2
    paper = "arXiv:2305.20050"
    data = "stepwise"
    head = "scalar"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 2e-5, "zoo's"),
            Point(7e9, 1e-6, "Math-Shepherd's"),
            Point(135e6, 2e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(494e6, 1e-4, "TRL's", lora=True),
        ],
        "epochs": 2, "batch_size": 16,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: Math-Shepherd (arXiv:2312.08935), section 4, in a transcription. Adapters: TRL's script "
        "prm.py; at 135 M LoRA Without Regret (thinkingmachines.ai, 2025).",
        "epochs": "Paper: 2.",
        "batch_size": "Neither: the paper does not say; the starter set gets enough steps.",
        "until_first_error": "Paper: nothing behind the first wrong step is supervised.",
    }
    metrics = {
        "accuracy": "Share of labelled steps whose probability lies on the right side of ½; ties count half.",
        "accuracy/right": "The same on right steps only; compare with accuracy/wrong, since most steps are right.",
        "accuracy/wrong": "The same on wrong steps only.",
        "first_error": "Share of flawed solutions whose first step below ½ is the first wrong one.",
        "product/sound": "Product of the steps' probabilities, mean over solutions without a wrong step.",
        "product/flawed": "The same over solutions with one; should be far below.",
        "min/sound": "Smallest probability of a step, mean over solutions without a wrong step.",
        "min/flawed": "The same over solutions with one.",
    }

    conformance = {
        "values": [
            {"given": {"scores": {"completion": [[-2.0, -0.1, 1.7]]},
                       "fields": {"step_ends": [[0, 1, 2]], "labels": [[1, 1, 0]]}}, "loss": 1.5797035668342698},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        zero: Literal["wrong", "right", "skip"] | None = None
        """What a label 0 means: wrong, the default of data without −1; neutral steps are right (paper) or left out."""
        until_first_error: bool = True
        """Learn nothing behind the first wrong step of a solution."""

    def prepare(self, records: Records, config: Config) -> Records:
        """Refuse labels whose 0 may mean two things."""
        if config.zero is None and any(-1 in r["labels"] and 0 in r["labels"] for r in records):
            raise ZooError(
                "Some steps are labelled −1, so that 0 may mean neutral.",
                "Say what 0 is: --zero right counts neutral steps as right, --zero skip leaves them out, --zero wrong.",
            )
        return records

    def loss(self, batch: StepwiseBatch, models: Models, config: Config) -> Loss:
        """−log σ(s) of right steps and −log σ(−s) of wrong ones, averaged over labelled steps."""
        scores = models.policy.scores(batch.completion, at=batch.step_ends)
        score, here = scores.per_step, scores.mask
        right, labelled = self._labels(batch.labels, here, config)
        losses = torch.where(right, -logsigmoid(score), -logsigmoid(-score))
        agree = wins(torch.where(right, score, -score))
        return Loss.per_token(losses, labelled, {
            "accuracy": agree,
            "accuracy/right": (agree, labelled & right),
            "accuracy/wrong": (agree, labelled & ~right),
            **self._of_solutions(score, here, labelled & ~right),
        })  # fmt: skip

    def _labels(self, labels: list[list[int]], here: Tensor, config: Config) -> tuple[Tensor, Tensor]:
        """Whether each step is right, and whether it is learned, bool [B, S] both."""
        label = torch.zeros(here.shape, dtype=torch.long, device=here.device)
        label[here] = torch.tensor([one for row in labels for one in row], dtype=torch.long, device=here.device)
        right = (label == 1) | ((label == 0) & (config.zero == "right"))
        labelled = here & ~((label == 0) & (config.zero == "skip"))
        if config.until_first_error:
            wrong = (labelled & ~right).long()
            labelled = labelled & (wrong.cumsum(-1) - wrong == 0)
        return right, labelled

    def _of_solutions(self, score: Tensor, here: Tensor, wrong: Tensor) -> dict[str, Metric]:
        """Metrics of solutions, [B]: over those without a wrong step, and over the others."""
        log_p = torch.where(here, logsigmoid(score), 0.0)
        flawed = wrong.any(-1)
        below = here & (score < 0)
        hit = (below.any(-1) & (below.int().argmax(-1) == wrong.int().argmax(-1))).float()
        values = {"product": log_p.sum(-1).exp(), "min": log_p.amin(-1).exp()}
        split = {f"{name}/sound": (value, ~flawed) for name, value in values.items()}
        return {"first_error": (hit, flawed), **split, **{f"{n}/flawed": (v, flawed) for n, v in values.items()}}
