"""RM: a reward model, trained on comparisons of answers (arXiv:2203.02155, equation 1).

A scalar head r(x, y) at the last token of an answer. Under Bradley-Terry the chosen one of two answers wins with
probability σ(r_c − r_r), and the loss is the negative log-likelihood of what was preferred. A ranking of K answers is
one example: all its pairs, divided by their number, so that every prompt weighs the same.

Comparisons fix no offset. After the last step the reward is shifted so that chosen answers of the training data have
mean 0, and on request scaled to standard deviation 1; both are stored with the model.

The rest is in docs/algorithms/rm.md.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Loss,
    Models,
    Point,
    PreferenceBatch,
    RankingBatch,
    Records,
    logsigmoid,
    require,
    wins,
)


class RM(Algorithm):
    """Reward model: score answers so that preferred ones score higher (Bradley-Terry, K-wise rankings)."""

    api_version = 2
    paper = "arXiv:2203.02155"
    data = ("preference", "ranking")
    head = "scalar"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 5e-5, "zoo's"),
            Point(6e9, 9e-6, "InstructGPT's"),
            Point(70e9, 5e-6, "Llama 2's"),
            Point(135e6, 5e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(494e6, 1e-4, "TRL's", lora=True),
        ],
        "epochs": 1, "batch_size": 16,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: InstructGPT, appendix C.2; Llama 2. Adapters: TRL's script reward_modeling.py; "
        "at 135 M LoRA Without Regret (thinkingmachines.ai, 2025).",
        "epochs": "Paper: one pass; a second one overfits.",
        "batch_size": "Neither: InstructGPT 64 prompts with all their comparisons, Llama 2 512 pairs.",
        "centering": "Neither: off, as in InstructGPT; arXiv:2312.09244 takes 0.01.",
        "margin_scale": "Paper: Llama 2's small margins.",
    }
    metrics = {
        "accuracy": "Share of pairs whose chosen answer scores higher, ties counted half; 0.5 is chance.",
        "margin": "r_c − r_r, before normalisation; should grow, and less where preferences are less certain.",
        "rewards/chosen": "Mean reward of chosen answers, before normalisation: its offset means nothing.",
        "rewards/rejected": "The same for rejected answers.",
        "brier": "(p − σ(r_c − r_r))², p = 1 without soft labels: 0.25 for a coin, lower if σ is a good probability.",
        "accuracy/same_length": "Accuracy on pairs whose lengths differ by a tenth at most: skill that is not length.",
        "accuracy/longer": "Accuracy that calling the longer answer better would have; ties count half.",
    }
    conformance = {
        "variants": [{"centering": 0.01}],
        "values": [
            {"given": {"scores": {"chosen": [1.2, 0.3, -0.5, 2.0], "rejected": [0.7, 0.9, -1.5, -3.0]}},
             "loss": 0.4578854926683333},
            {"given": {"scores": {"completions": [[2.0, 1.0, 0.5, -1.0], [0.2, 0.4, -0.3]]},
                       "fields": {"ranks": [[0, 1, 2, 3], [0, 1, 1]]}}, "loss": 0.43186067924713706},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        ranking_loss: Literal["kwise", "best_of_n", "plackett_luce"] = "kwise"
        """Loss of a ranking: all its pairs; −log softmax of the best; the likelihood of the order. A pair has one loss.
        Data that can give both, as the starter set, gives rankings with --format ranking."""
        margin_scale: float = 1.0
        """Factor of the data's margin m(rating), which a pair must win by. Llama 2: 1, 2/3, 1/3, 0, or 3 times that."""
        centering: float = 0.0
        """Weight η of (r_c + r_r)², which keeps rewards near 0; arXiv:2312.09244 takes 0.01."""
        normalize: Literal["mean", "mean_std", "none"] = "mean"
        """Chosen answers get mean reward 0; and standard deviation 1 (of a population); or rewards stay as they are."""
        normalize_samples: int = 256
        """Chosen answers of the training data that normalisation looks at."""

        def __post_init__(self) -> None:
            require(self.margin_scale >= 0, "margin_scale must be at least 0")
            require(self.centering >= 0, "centering must be at least 0")
            require(self.normalize_samples >= 2, "normalize_samples must be at least 2")
            require(
                self.normalize != "none" or self.normalize_samples == 256,
                "normalize_samples has no effect with normalize=none",
            )

    def prepare(self, records: Records, config: Config) -> Records:
        """The records as they are; what is looked at is whether the options say anything about them."""
        pairs = "chosen" in records[0]
        if config.ranking_loss != "kwise" and pairs:
            warnings.warn(
                f"--ranking-loss {config.ranking_loss} changes nothing: the data is pairs, and on two answers all "
                "these losses are one. A named source that has rankings gives them with --format ranking.",
                stacklevel=1,
            )
        tied = 0 if pairs else sum(_is_tied(record["ranks"], config.ranking_loss) for record in records)
        if tied:
            warnings.warn(
                f"--ranking-loss {config.ranking_loss} learns nothing from {tied:,} of {len(records):,} rankings, for "
                "their ties; kwise leaves out no more than tied pairs.", stacklevel=1,
            )  # fmt: skip
        if config.margin_scale != 1 and torch.as_tensor(records.column("margin")).isnan().all():
            warnings.warn("--margin-scale changes nothing: the data has no margin.", stacklevel=1)
        return records

    def loss(self, batch: PreferenceBatch | RankingBatch, models: Models, config: Config) -> Loss:
        """−log σ(r_c − r_r), or the loss of a ranking."""
        if isinstance(batch, RankingBatch):
            return self._rankings(batch, models, config)
        chosen, rejected = models.policy.scores(batch.chosen, batch.rejected)
        difference = chosen - rejected
        margin = batch.numbers("margin", difference, 0.0) * config.margin_scale
        p = batch.numbers("p_chosen", difference, 1.0)
        losses = -p * logsigmoid(difference - margin) - (1 - p) * logsigmoid(-difference - margin)
        lengths = (batch.chosen.lengths.to(chosen.device), batch.rejected.lengths.to(chosen.device))
        return Loss.per_example(losses + config.centering * (chosen + rejected) ** 2, {
            **self._of_pairs(chosen, rejected, p, *lengths),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
        })  # fmt: skip

    def _rankings(self, batch: RankingBatch, models: Models, config: Config) -> Loss:
        """One value a prompt; a prompt with ties that leave nothing to learn weighs nothing."""
        scores = models.policy.scores(*batch.completions)
        every = [scores] if isinstance(scores, Tensor) else scores
        values, weights, metrics = [], [], []
        for rewards, given, answers in zip(every, batch.ranks, batch.completions, strict=True):
            ranks = torch.as_tensor(given, device=rewards.device)
            better, worse = (ranks[:, None] < ranks[None, :]).nonzero(as_tuple=True)
            value = self._ranking(rewards, ranks, better, worse, config)
            centering = config.centering * ((rewards[better] + rewards[worse]) ** 2).mean()
            values.append(rewards.sum() * 0 if value is None else value + centering)
            weights.append(float(value is not None))
            lengths = answers.lengths.to(rewards.device)
            pairs = (rewards[better], rewards[worse], torch.ones_like(rewards[better]))
            metrics.append(self._of_pairs(*pairs, lengths[better], lengths[worse]))
            metrics[-1] |= {"rewards/chosen": rewards[better], "rewards/rejected": rewards[worse]}
        # As in the loss, every prompt weighs the same, however many pairs it has.
        means = {name: torch.stack([one[name].double().nanmean() for one in metrics]) for name in metrics[0]}
        return Loss.weighted(torch.stack(values), torch.tensor(weights, device=values[0].device), means)

    def _ranking(self, rewards: Tensor, ranks: Tensor, better: Tensor, worse: Tensor, config: Config) -> Tensor | None:
        """The loss of one ranking, [] or None where ties leave nothing."""
        if _is_tied(ranks.tolist(), config.ranking_loss):
            return None
        if config.ranking_loss == "kwise":
            return -logsigmoid(rewards[better] - rewards[worse]).mean()
        if config.ranking_loss == "best_of_n":
            return -rewards.log_softmax(0)[ranks.argmin()]
        ordered = rewards[ranks.argsort()]
        return (ordered.flip(0).logcumsumexp(0).flip(0) - ordered).sum()

    def _of_pairs(
        self, chosen: Tensor, rejected: Tensor, p: Tensor, chosen_length: Tensor, rejected_length: Tensor
    ) -> dict[str, Tensor]:
        """Metrics of pairs, [P] each."""
        right = wins(chosen - rejected)
        close = (chosen_length - rejected_length).abs() <= 0.1 * chosen_length.maximum(rejected_length)
        longer = (chosen_length > rejected_length) + 0.5 * (chosen_length == rejected_length)
        return {
            "accuracy": right,
            "margin": chosen - rejected,
            "brier": (p - (chosen - rejected).sigmoid()) ** 2,
            "accuracy/same_length": torch.where(close, right, torch.nan),
            "accuracy/longer": longer,
        }

    def finish(self, records: Records, models: Models, config: Config) -> None:
        """Fix the offset, and the scale, on chosen answers evenly taken from the training data."""
        if config.normalize != "none":
            some = records[:: max(1, len(records) // config.normalize_samples)][: config.normalize_samples]
            best = [r["chosen"] if "chosen" in r else r["completions"][r["ranks"].index(min(r["ranks"]))] for r in some]
            models.policy.normalize(best, std=1.0 if config.normalize == "mean_std" else None)


def _is_tied(ranks: list[float], ranking_loss: str) -> bool:
    """Whether ties leave nothing of a ranking: all answers alike; more than one best; no whole order."""
    if ranking_loss == "best_of_n":
        return ranks.count(min(ranks)) > 1
    return len(set(ranks)) < (2 if ranking_loss == "kwise" else len(ranks))
