"""SFT: supervised fine-tuning (the first stage of arXiv:2203.02155).

The likelihood of demonstrated answers, token by token. The mean is over all trained tokens of the optimizer step, never
over micro-batches, so that answers count by their tokens. Noise on the embeddings is an option (NEFTune,
arXiv:2310.05914).

The rest is in docs/algorithms/sft.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.api import Algorithm, Batch, DemonstrationBatch, Loss, Models, Record, default_collate


class SFT(Algorithm):
    """Supervised fine-tuning on demonstrations: raise the likelihood of the given answers."""

    api_version = 2
    paper = "arXiv:2203.02155"
    data = "demonstration"
    needs = ("policy",)
    defaults = {"lr": 1e-4, "epochs": 2}
    metrics = {"mean_token_accuracy": "Share of trained tokens that greedy decoding would have produced."}
    conformance = {"variants": [{"neftune_alpha": 5.0}]}

    @dataclass
    class Config:
        train_on: Literal["turns", "completion"] = "turns"
        """Which tokens are learned: every assistant turn of a conversation, or the last answer only."""
        neftune_alpha: float = 0.0
        """Noise scale α on the embeddings; 5 is the paper's value, 0 is off."""

    def collate(self, records: Sequence[Record], config: Config) -> Batch:
        field = "conversation" if config.train_on == "turns" else "completion"
        return default_collate([{"row": record["row"], "completion": record[field]} for record in records])

    def loss(self, batch: DemonstrationBatch, models: Models, config: Config) -> Loss:
        """−Σ m_t log π(y_t | x, y_<t) / Σ m_t."""
        logps = models.policy.logps(batch.completion, noise=config.neftune_alpha if models.training else 0.0)
        return Loss.per_token(-logps.per_token, logps.mask, {"mean_token_accuracy": logps.likeliest})
