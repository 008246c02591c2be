"""Online DPO: preferences of a reward on the policy's own answers (OAIF, arXiv:2402.04792).

To each prompt the policy writes two answers, the better one by the run's reward is the chosen one, and DPO's loss
follows; then the next prompts, with the policy as it is by now. The reward may be a checker, a reward model or a judge.
Of more than two answers the best and the worst make the pair. A pair without a preference has no weight.

The rest is in docs/algorithms/online-dpo.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import Algorithm, Answers, Batch, Loss, Models, Point, Record, Reward, ZooError, logsigmoid, require, wins


class Pairs(Batch):
    """A pair of answers to each prompt. usable: bool [B], whether it is one; the rest float [B]."""

    chosen: Answers
    rejected: Answers
    usable: Tensor
    margins: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor


class OnlineDPO(Algorithm):
    """Online DPO: the better of two answers that the policy has just written is raised over the other."""

    api_version = 2
    paper = "arXiv:2402.04792"
    data = "prompt"
    needs = ("policy", "reference")
    defaults = {
        "lr": [
            Point(135e6, 1e-5, "zoo's"),
            Point(1e9, 5e-7, "TRL's"),
            Point(6.9e9, 5e-7, "TRL's"),
            Point(135e6, 1e-4, "LoRA Without Regret's tenfold rate", lora=True),
            Point(1e9, 5e-6, "TRL's", lora=True),
        ],
        "schedule": "constant", "batch_size": 64, "answers_per_prompt": 2, "max_new_tokens": 64,
    }  # fmt: skip
    reasons = {
        "lr": "Neither: the paper's 5e-7 is for Adafactor and models whose sizes are not public. TRL's documentation "
        "has the same with AdamW, at 1 to 6.9 B weights; adapters: its script online_dpo.py, and at 135 M LoRA Without "
        "Regret (thinkingmachines.ai, 2025).",
        "beta": "Paper: 0.1.",
        "schedule": "Neither: constant, as every rollout is new.",
        "batch_size": "Neither: 32 pairs a step. Paper 128.",
        "answers_per_prompt": "Paper: 2.",
        "max_new_tokens": "Neither: TRL's 64, and the starter set's answers; set it to the task's.",
        "ties": "Neither: a tie teaches nothing; TRL takes the first.",
    }
    metrics = {
        "rewards/chosen": "β times the log-ratio of policy to reference on chosen answers, about 0 at the start.",
        "rewards/rejected": "The same on rejected answers; should fall below rewards/chosen.",
        "rewards/margins": "β·h = rewards/chosen − rewards/rejected; grows less than offline, as pairs are always new.",
        "rewards/accuracies": "Share of pairs whose margin is above 0; ties count half.",
        "scores/margins": "By how much the reward prefers the chosen answer; goes to 0 as answers become alike.",
        "kl": "KL(π ‖ π_ref) of both answers as they were written, k1, summed over an answer.",
        "entropy": "Entropy of the policy, mean over the tokens of an answer; near 0 both answers are the same.",
        "dropped": "Share of pairs without weight: ties, equal answers, missing rewards.",
    }
    conformance = {"start": {"loss": math.log(2), "rewards/margins": 0.0}, "flat": [{}]}

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the implicit reward: the larger, the nearer to the reference."""
        ties: Literal["drop", "first"] = "drop"
        """Answers that score the same: no pair, or the first is the chosen one."""
        missing_eos_penalty: float = 0.0
        """Taken off the score of an answer without end of turn; 0 for nothing."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")

    def rollout(self, prompts: Sequence[Record], models: Models, config: Config, score: Reward) -> Pairs:
        """A pair for each prompt, and what the reference says of both."""
        answers = models.policy.generate(prompts)
        if len(answers) < 2 * len(prompts):
            raise ZooError("Online DPO compares answers to one prompt, and answers_per_prompt is 1.", "Make it 2.")
        scores = score(answers)
        scores = scores - config.missing_eos_penalty * ~answers.ended.to(scores.device)
        scores = scores.view(len(prompts), -1)
        first, second, usable = chosen_and_rejected(scores, config.ties)
        offset = torch.arange(len(prompts), device=scores.device) * scores.shape[1]
        chosen, rejected = (answers.select((offset + place).tolist()) for place in (first, second))
        same = [torch.equal(a.completion, b.completion) for a, b in zip(chosen, rejected, strict=True)]
        reference = models.reference.logps(chosen, rejected)
        margins = scores.gather(1, first[:, None]) - scores.gather(1, second[:, None])
        return Pairs(
            chosen=chosen, rejected=rejected, usable=usable & ~torch.tensor(same, device=usable.device),
            margins=margins[:, 0], reference_chosen=reference[0].sum(), reference_rejected=reference[1].sum(),
        )  # fmt: skip

    def loss(self, batch: Pairs, models: Models, config: Config) -> Loss:
        """Equation 7 of DPO on the pairs that are one."""
        chosen, rejected = models.policy.logps(batch.chosen, batch.rejected, entropy=True)
        reward_chosen = config.beta * (chosen.sum() - batch.reference_chosen)
        reward_rejected = config.beta * (rejected.sum() - batch.reference_rejected)
        margins = reward_chosen - reward_rejected
        written = [(one.behaviour * one.mask).sum(-1) for one in (batch.chosen, batch.rejected)]
        kl = (written[0] - batch.reference_chosen + written[1] - batch.reference_rejected) / 2
        entropies = [(one.entropy * one.mask).sum(-1) / one.lengths.clamp(min=1) for one in (chosen, rejected)]
        every = torch.ones_like(margins)
        counted = {
            "rewards/chosen": reward_chosen,
            "rewards/rejected": reward_rejected,
            "rewards/margins": margins,
            "rewards/accuracies": wins(margins, config.beta),
            "scores/margins": batch.margins,
        }
        return Loss.weighted(-logsigmoid(margins), batch.usable, {
            **{name: (value, batch.usable) for name, value in counted.items()},
            "kl": (kl, every),
            "entropy": ((entropies[0] + entropies[1]) / 2, every),
            "dropped": (~batch.usable, every),
        })  # fmt: skip


def chosen_and_rejected(scores: Tensor, ties: str = "drop") -> tuple[Tensor, Tensor, Tensor]:
    """Places of the best and the worst answer and whether they make a pair, [P] each; scores [P, n], NaN where missing.

    With ties="first" the first of equal answers is the chosen one.
    """
    known = ~scores.isnan()
    best = scores.where(known, -torch.inf).argmax(1)
    # The last of equal ones, so that a tie is no pair of an answer with itself.
    worst = scores.shape[1] - 1 - scores.where(known, torch.inf).flip(1).argmin(1)
    differ = scores.gather(1, best[:, None]) > scores.gather(1, worst[:, None])
    if ties == "first":
        return best, worst, (known.sum(1) > 1) & (best != worst)
    return best, worst, differ[:, 0]
