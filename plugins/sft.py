"""SFT: supervised fine-tuning (the first stage of arXiv:2203.02155).

The likelihood of demonstrated answers, token by token. The mean is over all trained tokens of the optimizer step, never
over micro-batches, so that answers count by their tokens. Noise on the embeddings is an option (NEFTune,
arXiv:2310.05914).

The rest is in docs/algorithms/sft.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from zoo.api import (
    Algorithm,
    Answer,
    Batch,
    DemonstrationBatch,
    Loss,
    Models,
    Point,
    Record,
    Records,
    ZooError,
    default_collate,
)  # fmt: skip


def untrained(record: Record) -> Answer:
    """The answer of a held-out row that marks no turn: none of its tokens counts."""
    answer: Answer = record["completion"]
    return replace(answer, mask=torch.zeros_like(answer.mask))


class SFT(Algorithm):
    """Supervised fine-tuning on demonstrations: raise the likelihood of the given answers."""

    api_version = 2
    paper = "arXiv:2203.02155"
    data = "demonstration"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 1e-4, "tuned here"),
            Point(1.3e9, 9.65e-6, "InstructGPT's"),
            Point(6e9, 9.65e-6, "InstructGPT's"),
            Point(175e9, 5.03e-6, "InstructGPT's"),
            Point(135e6, 1e-3, "LoRA Without Regret's tenfold rate", lora=True),
            Point(7e9, 2e-4, "QLoRA's", lora=True),
            Point(13e9, 2e-4, "QLoRA's", lora=True),
            Point(33e9, 1e-4, "QLoRA's", lora=True),
            Point(65e9, 1e-4, "QLoRA's", lora=True),
        ],
        "epochs": 2,
    }  # fmt: skip
    reasons = {
        "lr": "Paper: InstructGPT, appendix C.1. Adapters: QLoRA's scripts, on a base of 4 bits; at 135 M LoRA Without "
        "Regret (thinkingmachines.ai, 2025). Elsewhere for full training: Llama 2 and Alpaca 2e-5 at 7 B weights, "
        "Tülu 3 5e-6 at 8 B and 2e-6 at 70 B.",
        "epochs": "Tuned here, and Llama 2's. InstructGPT made 16 and chose a checkpoint by its reward model.",
        "batch_size": "Neither: the starter set gets enough steps. On far more data InstructGPT 32, Llama 2 64.",
        "neftune_alpha": "Neither: off, as in most SFT. NEFTune's paper 5.",
    }
    metrics = {"mean_token_accuracy": "Share of trained tokens that greedy decoding would have produced."}
    conformance = {
        "variants": [{"neftune_alpha": 5.0}],
        "columns": {"completion": [
            [{"role": "assistant", "content": text, "train": True}]
            for text in ("red", "two blue dogs and a cat", "one moon", "green sun over three cats", "here and there")
        ]},
    }  # fmt: skip

    @dataclass
    class Config:
        train_on: Literal["turns", "completion", "marked"] = "turns"
        """Which tokens are learned: every assistant turn of a conversation, the last answer only, or the turns that the
        data marks (train: true, weight: 1)."""
        neftune_alpha: float = 0.0
        """Noise scale α on the embeddings; 5 is the paper's value, 0 is off."""

    def prepare(self, records: Records, config: Config) -> Records:
        """With train_on marked, leave out the rows that mark no turn."""
        if config.train_on != "marked":
            return records
        marked = records.filter(lambda record: "marked" in record)
        if not marked:
            hint = "Write train: true or weight: 1 into messages, or --train-on turns."
            raise ZooError("No row marks a turn to be trained.", hint)
        return marked

    def collate(self, records: Sequence[Record], config: Config) -> Batch:
        field = "conversation" if config.train_on == "turns" else config.train_on
        return default_collate(
            [{"row": record["row"], "completion": record.get(field) or untrained(record)} for record in records]
        )

    def loss(self, batch: DemonstrationBatch, models: Models, config: Config) -> Loss:
        """−Σ m_t log π(y_t | x, y_<t) / Σ m_t."""
        logps = models.policy.logps(batch.completion, noise=config.neftune_alpha if models.training else 0.0)
        return Loss.per_token(-logps.per_token, logps.mask, {"mean_token_accuracy": logps.likeliest})
