"""LM: language modelling, the objective of pretraining: every token of a text from those before it.

The mean of −log π(y_t | y_<t) over all tokens of the optimizer step. Texts longer than max_length are split into
pieces, each of which sees the last token of the one before it and nothing else; several texts share a row, and none
sees its neighbours (arXiv:2402.13991 finds that better than one stream of texts). A text ends with the tokenizer's end
of sequence, which is learned too.

The default schedule is warmup-stable-decay (arXiv:2404.06395): the learning rate is constant until the last tenth of
the steps. With decay_data these last steps read other data, as MiniCPM and OLMo 2 (arXiv:2501.00656) do in what is
called annealing or mid-training. The decay is linear, where MiniCPM's is exponential.

Defaults are those of small models from scratch (Adam's β₂ 0.95, weight decay 0.1, as GPT-3 and later models have them);
a trained model that learns from more text takes a tenth of the learning rate or less.
"""

from __future__ import annotations

from zoo.api import Algorithm, Loss, Models, TextBatch


class LM(Algorithm):
    """Language modelling on plain text: pretraining, and with other data in the decay phase mid-training."""

    api_version = 2
    paper = "arXiv:2404.06395"
    data = "text"
    needs = ("policy",)
    defaults = {
        "lr": 1e-3, "schedule": "wsd", "warmup": 0.01, "weight_decay": 0.1, "adam_beta2": 0.95, "batch_size": 64,
        "long_rows": "split",
    }  # fmt: skip
    metrics = {"mean_token_accuracy": "Share of tokens that greedy decoding would have produced."}

    def loss(self, batch: TextBatch, models: Models) -> Loss:
        """−Σ log π(y_t | y_<t) / number of tokens."""
        logps = models.policy.logps(batch.completion)
        return Loss.per_token(-logps.per_token, logps.mask, {"mean_token_accuracy": logps.likeliest})
