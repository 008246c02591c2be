"""ORPO: Odds Ratio Preference Optimization (arXiv:2403.07691).

Fine-tuning on the chosen answers raises the rejected ones along with them. ORPO does both stages in one: the likelihood
of the chosen answer, plus a penalty where its odds do not exceed those of the rejected answer. The odds are P/(1 − P)
with P = exp(log π(y|x)/|y|), the geometric mean of the tokens' probabilities. It starts from a base model and needs no
reference.

The rest is in docs/algorithms/orpo.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.api import (
    Algorithm,
    Answer,
    Batch,
    Loss,
    Measured,
    Models,
    Point,
    PreferenceBatch,
    Record,
    default_collate,
    logsigmoid,
    require,
    wins,
)

LARGEST = -torch.finfo(torch.float32).tiny
"""Mean log-probabilities are held below it: at 0 the odds are infinite."""


class ORPO(Algorithm):
    """Odds Ratio Preference Optimization: fine-tuning and preferences in one stage, without a reference."""

    api_version = 2
    paper = "arXiv:2403.07691"
    data = "preference"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 1e-4, "zoo's"),
            Point(7e9, 5e-6, "the authors'"),
            Point(135e6, 1e-3, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 5e-5, "LoRA Without Regret's tenfold rate", lora=True),
        ],
        "epochs": 1, "batch_size": 16,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: appendix C, and the authors' script for Mistral 7B. Adapters: LoRA Without Regret "
        "(thinkingmachines.ai, 2025): adapters want about ten times the full rate.",
        "odds_ratio_weight": "Paper: 0.1, for Mistral 7B.",
        "nll_over": "Paper: the answer. Its code takes the prompt too.",
        "epochs": "Neither: one pass. Paper 5, on Mistral 7B.",
        "batch_size": "Neither: half of the 32 of its authors' script.",
    }
    metrics = {
        "nll": "−log π per token: the likelihood term, over the tokens that nll_over names.",
        "odds_ratio": "−log σ(log odds ratio): the term of odds_ratio_weight.",
        "log_odds": "Log of the ratio of the chosen answer's odds to the rejected one's; should grow.",
        "rewards/chosen": "λ·log π(y|x)/|y| of chosen answers.",
        "rewards/rejected": "The same of rejected answers; should fall below rewards/chosen.",
        "rewards/margins": "rewards/chosen − rewards/rejected.",
        "rewards/accuracies": "Share of pairs whose chosen answer is likelier per token than the rejected one; ties "
        "count half.",
        "logps/chosen": "log π(y|x)/|y| of chosen answers.",
        "logps/rejected": "The same of rejected answers.",
    }

    conformance = {
        "values": [
            {"given": {"policy": {"chosen": [-0.5, -1.2, -0.05, -3.0], "rejected": [-0.9, -0.8, -2.0, -3.5]}},
             "measured": {"chosen_length": 1.0}, "metrics": {"odds_ratio": 0.47612117556225597}},
        ],
    }  # fmt: skip

    @dataclass
    class Config:
        odds_ratio_weight: float = 0.1
        """Weight λ of the odds ratio term. Paper 0.1 to 0.25; TRL calls it beta."""
        nll_over: Literal["answer", "all"] = "answer"
        """Tokens of the likelihood term: those of the chosen answer, as in the paper, or those of its prompt too, as in
        the authors' code."""

        def __post_init__(self) -> None:
            require(self.odds_ratio_weight > 0, "odds_ratio_weight must be above 0: without the term this is sft")

    def collate(self, records: Sequence[Record], config: Config) -> Batch:
        """With nll_over=all the prompt goes into the chosen completion, so that one pass gives all its log-probs."""
        if config.nll_over == "answer":
            return default_collate(records)
        return default_collate([
            {**record, "chosen": _whole(record["chosen"]), "prompt_tokens": len(record["chosen"].prompt)}
            for record in records
        ])  # fmt: skip

    def measure(self, batch: PreferenceBatch) -> Measured:
        """Tokens of the likelihood term a pair: with it the term is a mean over all tokens of the step."""
        return {"chosen_length": (batch.chosen.lengths.sum(), len(batch))}

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """Equations 6 and 7: −log π(y_c|x) − λ log σ(log odds_c − log odds_r)."""
        chosen, rejected = models.policy.logps(batch.chosen, batch.rejected)
        answer = chosen.mask
        if config.nll_over == "all":
            place = torch.arange(answer.shape[1], device=answer.device)
            answer = answer & (place >= batch.prompt_tokens[:, None])
        p_chosen = (chosen.per_token * answer).sum(-1) / answer.sum(-1).clamp(min=1)
        p_rejected = rejected.mean()
        log_odds = _log_odds(p_chosen) - _log_odds(p_rejected)
        odds_ratio = -logsigmoid(log_odds)
        nll = -chosen.sum() / batch.measured["chosen_length"]
        weight = config.odds_ratio_weight
        return Loss.per_example(nll + weight * odds_ratio, {
            "nll": (-chosen.per_token, chosen.mask),
            "odds_ratio": odds_ratio,
            "log_odds": log_odds,
            "rewards/chosen": weight * p_chosen,
            "rewards/rejected": weight * p_rejected,
            "rewards/margins": weight * (p_chosen - p_rejected),
            "rewards/accuracies": wins(p_chosen - p_rejected),
            "logps/chosen": p_chosen,
            "logps/rejected": p_rejected,
        })  # fmt: skip


def _log_odds(p: Tensor) -> Tensor:
    """log(P/(1 − P)) from p = log P."""
    p = p.clamp(max=LARGEST)
    return p - _log1mexp(p)


def _log1mexp(p: Tensor) -> Tensor:
    """log(1 − exp p) for p below 0, in two branches, each exact where the other one loses all digits (Mächler 2012).

    Each is given harmless numbers in the place of the other's: a slope of infinity times 0 would be no number.
    """
    near = p > -math.log(2)
    small, large = torch.where(near, p, -1.0), torch.where(near, -1.0, p)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def _whole(answer: Answer) -> Answer:
    """The answer with its prompt moved into the completion; all of it counts but the first token."""
    prompt = torch.ones_like(answer.prompt, dtype=torch.bool)
    prompt[:1] = False
    completion, mask = torch.cat([answer.prompt, answer.completion]), torch.cat([prompt, answer.mask])
    return Answer(answer.prompt[:0], completion, mask, ended=answer.ended, cut=answer.cut)
