"""LM: language modelling, the objective of pretraining (schedule of arXiv:2404.06395).

Every token of a text is learned from those before it, its end of sequence included; the mean is over all tokens of the
step. Texts longer than max_length are split, several share a row, and none sees its neighbours. The learning rate is
constant until the last tenth of the steps, which may read other data (--decay-data): that is mid-training.

The rest is in docs/algorithms/lm.md.
"""

from __future__ import annotations

from zoo.api import Algorithm, Loss, Models, Point, TextBatch


class LM(Algorithm):
    """Language modelling on plain text: pretraining, and with other data in the decay phase mid-training."""

    api_version = 2
    paper = "arXiv:2404.06395"
    data = "text"
    needs = ("policy",)
    defaults = {
        "lr": [
            Point(135e6, 1e-3, "zoo's"),
            Point(350e6, 3e-4, "GPT-3's"),
            Point(1.3e9, 2e-4, "GPT-3's"),
            Point(6.7e9, 1.2e-4, "GPT-3's"),
            Point(13e9, 1e-4, "GPT-3's"),
            Point(175e9, 6e-5, "GPT-3's"),
        ],
        "schedule": "wsd", "warmup": 0.01, "weight_decay": 0.1, "optimizer": "adamw(beta2=0.95)", "batch_size": 64,
        "long_rows": "split",
    }  # fmt: skip
    reasons = {
        "lr": "Neither: from scratch, from GPT-3's table 2.1, since MiniCPM's 0.01 is for another parametrisation. A "
        "trained model that reads on needs a tenth or less.",
        "schedule": "Paper: warmup, stable, decay.",
        "warmup": "Neither: a hundredth of the steps.",
        "weight_decay": "Neither: 0.1, as GPT-3 and most models since.",
        "optimizer": "Neither: AdamW with β₂ = 0.95, as GPT-3 and most models since.",
        "batch_size": "Neither: GPT-3's and MiniCPM's are millions of tokens, which a small machine does not read.",
        "long_rows": "Neither: no text is lost.",
        "epochs": "Neither: one pass.",
    }
    metrics = {"mean_token_accuracy": "Share of tokens that greedy decoding would have produced."}

    def loss(self, batch: TextBatch, models: Models) -> Loss:
        """−Σ log π(y_t | y_<t) / number of tokens."""
        logps = models.policy.logps(batch.completion)
        return Loss.per_token(-logps.per_token, logps.mask, {"mean_token_accuracy": logps.likeliest})
