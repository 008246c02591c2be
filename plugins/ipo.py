"""IPO: Identity Preference Optimization (arXiv:2310.12036).

DPO trusts Bradley-Terry: a pair that one rater preferred pulls the two answers apart without end, whatever β says.
IPO fits the preferences themselves under the same pull to the reference, and gets a regression: h, the difference of
the two log-ratios of a pair, should be 1/(2τ), no less and no more.

Log-ratios are means per token by default; the paper writes sums (--reduction sum).

The rest is in docs/algorithms/ipo.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zoo.api import Algorithm, Loss, Models, Point, PreferenceBatch, TokenLogps, require, wins

DEFAULT_TAU = {"mean": 1.0, "sum": 0.1}


class IPO(Algorithm):
    """Identity Preference Optimization: bring the margin of each pair to a fixed target, not to infinity."""

    api_version = 2
    paper = "arXiv:2310.12036"
    data = "preference"
    needs = ("policy", "reference")
    defaults = {
        "lr": [
            Point(135e6, 5e-5, "tuned here"),
            Point(7e9, 5e-7, "alignment-handbook's"),
            Point(135e6, 5e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-6, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: the paper has bandits only. alignment-handbook, recipes/pref_align_scan. Adapters: LoRA "
        "Without Regret (thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "tau": "Tuned here: half a nat per token. The paper has bandits only; TRL 0.1 for mean and sum.",
        "epochs": "Neither: one pass, as in alignment-handbook's comparison.",
        "batch_size": "Tuned here: enough steps on the starter set. alignment-handbook 128.",
    }
    metrics = {
        "h": "Log-ratio of policy to reference on the chosen answer minus that on the rejected one; starts at 0.",
        "h/distance": "h − 1/(2τ): how far pairs are from the target; starts at −1/(2τ), should come to 0.",
        "rewards/chosen": "τ times the log-ratio on chosen answers, as h takes it (per token or summed).",
        "rewards/rejected": "The same on rejected answers; should fall below rewards/chosen.",
        "rewards/margins": "rewards/chosen − rewards/rejected = τ·h; should come to 1/2.",
        "rewards/accuracies": "Share of pairs whose margin is above 0; ties count half.",
        "logps/chosen": "log π of chosen answers, summed.",
        "logps/rejected": "log π of rejected answers, summed.",
    }
    conformance = {
        "start": {"loss": 0.25, "h": 0.0, "h/distance": -0.5, "rewards/margins": 0.0},
        "values": [
            {"given": {"policy": {"chosen": [-12.5, -20.0, -8.25, -30.0], "rejected": [-14.0, -18.5, -8.25, -45.5]},
                       "reference": {"chosen": [-13.0, -19.0, -8.0, -32.5], "rejected": [-13.5, -19.5, -8.75, -40.0]},
                       "lengths": {"chosen": [10, 16, 5, 24], "rejected": [12, 14, 5, 36]}},
             "options": {"tau": 0.1}, "loss": 24.867008672682037},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        tau: float | None = None
        """Regularisation τ: the target of h is 1/(2τ). If not given, 1 for the mean and 0.1 for the sum."""
        reduction: Literal["mean", "sum"] = "mean"
        """Log-ratios per token (mean), or of whole answers (sum), as the paper writes them."""

        def __post_init__(self) -> None:
            require(self.tau is None or self.tau > 0, "tau must be above 0")

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """Equation 17: (h − 1/(2τ))²."""
        policy = models.policy.logps(batch.chosen, batch.rejected)
        reference = models.reference.logps(batch.chosen, batch.rejected)
        chosen, rejected = (
            self._reduced(one, config) - self._reduced(frozen, config)
            for one, frozen in zip(policy, reference, strict=True)
        )
        h = chosen - rejected
        # The options keep what was typed: a run's own file with another reduction takes that one's default.
        tau = DEFAULT_TAU[config.reduction] if config.tau is None else config.tau
        distance = h - 1 / (2 * tau)
        return Loss.per_example(distance**2, {
            "h": h,
            "h/distance": distance,
            "rewards/chosen": tau * chosen,
            "rewards/rejected": tau * rejected,
            "rewards/margins": tau * h,
            "rewards/accuracies": wins(h),
            "logps/chosen": policy[0].sum(),
            "logps/rejected": policy[1].sum(),
        })  # fmt: skip

    def _reduced(self, logps: TokenLogps, config: Config) -> Tensor:
        return logps.mean() if config.reduction == "mean" else logps.sum()
