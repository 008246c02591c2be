"""DPO: Direct Preference Optimization (arXiv:2305.18290).

The policy is its own reward model: r(x, y) = β log π(y|x)/π_ref(y|x). Maximum likelihood of the preferences under
Bradley-Terry gives a loss on h, the difference of the two log-ratios of a pair. Log-probs are sums over the answer.

Options give the family: cDPO, robust DPO, the hinge of SLiC, APO, SPPO, f-DPO, length normalisation, LD-DPO, RPO's NLL
term, no reference. Where pairs have a `p_chosen`, as those of a judge do, the loss is the mean of both orders by it.

The rest is in docs/algorithms/dpo.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zoo.api import Algorithm, Loss, Models, Point, PreferenceBatch, TokenLogps, logsigmoid, require, wins

LARGEST_EXPONENT = 40.0
ANCHORED = ("apo_zero", "apo_down", "sppo")
"""Losses of the two rewards of a pair by themselves; the others are of their difference."""
PAIRS = {
    "policy": {"chosen": [-12.5, -20.0, -8.25, -30.0], "rejected": [-14.0, -18.5, -8.25, -45.5]},
    "reference": {"chosen": [-13.0, -19.0, -8.0, -32.5], "rejected": [-13.5, -19.5, -8.75, -40.0]},
}
"""Log-probs of four pairs, of worked numbers."""


class DPO(Algorithm):
    """Direct Preference Optimization: raise the chosen answer over the rejected one, relative to a reference."""

    api_version = 2
    paper = "arXiv:2305.18290"
    data = "preference"
    defaults = {
        "lr": [
            Point(135e6, 5e-5, "tuned here"),
            Point(2.8e9, 1e-6, "the paper's", "RMSprop"),
            Point(7e9, 5e-7, "Zephyr's"),
            Point(70e9, 2e-7, "Tülu 3's"),
            Point(135e6, 5e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-6, "alignment-handbook's", lora=True),
        ],
        "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: appendix B, with RMSprop; Zephyr (arXiv:2310.16944), section 4.3; Tülu 3, whose DPO is "
        "normalised by length. Adapters: alignment-handbook, zephyr-7b-beta/dpo/config_qlora.yaml; at "
        "135 M LoRA Without Regret (thinkingmachines.ai, 2025).",
        "beta": "Paper: 0.1 (0.5 for summaries), at every size.",
        "epochs": "Paper: one pass, in its authors' code. Zephyr 3.",
        "batch_size": "Tuned here: enough steps on the starter set. Paper 64, Tülu 3 128.",
    }
    metrics = {
        "rewards/chosen": "β times the log-ratio of policy to reference on chosen answers; 0 at the start, up to "
        "rounding. Per token with length_normalized, β·log π with reference_free.",
        "rewards/rejected": "The same on rejected answers; should fall below rewards/chosen.",
        "rewards/margins": "rewards/chosen − rewards/rejected, β·h, whatever the divergence; should grow.",
        "rewards/accuracies": "Share of pairs whose margin is above 0; ties count half, and all pairs tie until the "
        "policy has moved.",
        "logps/chosen": "log π of chosen answers, summed. It often falls too: then both answers lose probability.",
        "logps/rejected": "log π of rejected answers, summed.",
        "nll": "−log π / |y| of chosen answers: the term of nll_weight.",
    }
    conformance = {
        "start": {"loss": math.log(2), "rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/margins": 0.0},
        "variants": [
            {"loss": "robust", "label_smoothing": 0.1},
            {"loss": "sppo", "beta": 0.001},
            {"ld_alpha": 0.5, "nll_weight": 1.0},
        ],
        "values": [
            {"given": PAIRS, "loss": 0.6362465840574338},
            {"given": PAIRS, "options": {"loss": "apo_zero"}, "loss": 0.9618496402691454},
            {"given": PAIRS, "options": {"loss": "apo_down"}, "loss": 0.9742666449940046},
            {"given": PAIRS, "options": {"loss": "sppo", "beta": 0.001}, "loss": 498447.328125},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the implicit reward: the larger, the nearer to the reference. Paper 0.1; Tülu 3, which is
        length_normalized, 5."""
        loss: Literal["sigmoid", "robust", "hinge", "apo_zero", "apo_down", "sppo"] = "sigmoid"
        """sigmoid: −log σ(βh); robust: unbiased under flipped labels (arXiv:2403.00409); hinge: max(0, 1 − βh). Of the
        rewards themselves: apo_zero raises chosen and lowers rejected answers, apo_down lowers both, rejected ones more
        (arXiv:2408.06266); sppo brings the log-ratios to ±1/(2β), with β 0.001 in the paper (arXiv:2405.00675)."""
        label_smoothing: float = 0.0
        """Share ε of flipped labels; with sigmoid this is cDPO, whose gradient vanishes at βh = log((1−ε)/ε)."""
        divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
        """f-DPO: the divergence that keeps the policy near the reference; reverse_kl is DPO. forward_kl and alpha have
        no gradient where a log-ratio lies below −40 (alpha: −40/α)."""
        divergence_alpha: float = 0.5
        """α of divergence=alpha, from 0 (reverse KL) to 1 (forward KL); TRL's is 1 − α."""
        length_normalized: bool = False
        """Divide log-ratios by the answer's length, as Tülu 3 does."""
        ld_alpha: float = 1.0
        """LD-DPO: weight α of the tokens beyond the shorter answer's length; 1 is DPO."""
        nll_weight: float = 0.0
        """RPO: weight α of −log π(y_c|x)/|y_c|; the paper takes 1."""
        reference_free: bool = False
        """Leave the reference out: h = log π(y_c|x) − log π(y_r|x)."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(0 <= self.label_smoothing < 0.5, "label_smoothing must be at least 0 and below 0.5")
            require(self.loss != "robust" or self.label_smoothing > 0, "loss=robust needs a label_smoothing above 0")
            require(
                self.loss in ("sigmoid", "robust") or not self.label_smoothing,
                f"label_smoothing has no meaning with loss={self.loss}",
            )
            require(
                self.loss not in ANCHORED or self.divergence == "reverse_kl",
                f"loss={self.loss} takes no other divergence",
            )
            require(self.loss not in ANCHORED or not self.reference_free, f"loss={self.loss} needs the reference")
            require(0 <= self.divergence_alpha <= 1, "divergence_alpha must be from 0 to 1")
            require(
                self.divergence == "alpha" or self.divergence_alpha == 0.5,
                "divergence_alpha has no effect without divergence=alpha",
            )
            require(
                not self.reference_free or self.divergence == "reverse_kl",
                "reference_free leaves no reference for another divergence",
            )
            require(0 <= self.ld_alpha <= 1, "ld_alpha must be from 0 to 1")
            require(not self.length_normalized or self.ld_alpha == 1, "length_normalized leaves ld_alpha no effect")
            require(self.nll_weight >= 0, "nll_weight must be at least 0")

    def needs(self, config: Config) -> tuple[str, ...]:
        return ("policy",) if config.reference_free else ("policy", "reference")

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """Equation 7, and its relatives."""
        chosen, rejected = models.policy.logps(batch.chosen, batch.rejected)
        log_ratios = self._sums(chosen, rejected, config)
        if not config.reference_free:
            reference = self._sums(*models.reference.logps(batch.chosen, batch.rejected), config)
            log_ratios = [policy - frozen for policy, frozen in zip(log_ratios, reference, strict=True)]
        better, worse = (self._score(log_ratio, config) for log_ratio in log_ratios)
        nll, p = -chosen.mean(), batch.numbers("p_chosen", better, 1.0)
        losses = p * self._losses(better, worse, config) + (1 - p) * self._losses(worse, better, config)
        losses = losses + config.nll_weight * nll
        rewards = [config.beta * log_ratio for log_ratio in log_ratios]
        return Loss.per_example(losses, {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": rewards[0] - rewards[1],
            "rewards/accuracies": wins(rewards[0] - rewards[1], config.beta),
            "logps/chosen": chosen.sum(),
            "logps/rejected": rejected.sum(),
            "nll": nll,
        })  # fmt: skip

    def _losses(self, better: Tensor, worse: Tensor, config: Config) -> Tensor:
        """Loss of each pair from the scores of its answers; logsigmoid, because log(sigmoid) overflows."""
        if config.loss in ANCHORED:
            return self._anchored(better, worse, config)
        z, e = config.beta * (better - worse), config.label_smoothing
        if config.loss == "hinge":
            return (1 - z).clamp(min=0)
        if config.loss == "robust":
            return (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e)
        return -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)

    def _anchored(self, better: Tensor, worse: Tensor, config: Config) -> Tensor:
        """APO's equations 7 and 8, plus 1, which makes them positive; SPPO's equation 4.7 for both answers."""
        if config.loss == "sppo":
            target = 0.5 / config.beta
            return (better - target) ** 2 + (worse + target) ** 2
        if config.loss == "apo_zero":
            return (-config.beta * better).sigmoid() + (config.beta * worse).sigmoid()
        return (config.beta * better).sigmoid() + (-config.beta * (better - worse)).sigmoid()

    def _score(self, log_ratio: Tensor, config: Config) -> Tensor:
        """f'(u) at u = π/π_ref, up to a constant (arXiv:2309.16240, table 1)."""
        if config.divergence == "forward_kl":
            return -(-log_ratio).clamp(max=LARGEST_EXPONENT).exp()
        if config.divergence == "js":
            return math.log(2) + logsigmoid(log_ratio)
        if config.divergence == "alpha" and config.divergence_alpha:
            alpha = config.divergence_alpha
            return (1 - (-alpha * log_ratio).clamp(max=LARGEST_EXPONENT).exp()) / alpha
        return log_ratio

    def _sums(self, chosen: TokenLogps, rejected: TokenLogps, config: Config) -> list[Tensor]:
        """log π of both answers: sums, means per token, or sums in which the longer one's tail weighs less."""
        if config.length_normalized:
            return [chosen.mean(), rejected.mean()]
        if config.ld_alpha == 1.0:
            return [chosen.sum(), rejected.sum()]
        shared = chosen.lengths.minimum(rejected.lengths)[:, None]
        sums = []
        for logps in (chosen, rejected):
            beyond = logps.mask.cumsum(-1) > shared
            weight = logps.mask * (1 - (1 - config.ld_alpha) * beyond)
            sums.append((logps.per_token * weight).sum(-1))
        return sums
