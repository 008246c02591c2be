"""Sound: preference pairs against a moving average of the margin. The broken ones beside it differ in one thing."""

import math
from dataclasses import dataclass
from typing import Literal

from zoo.api import Algorithm, Loss, logsigmoid


class Sound(Algorithm):
    """Raises the chosen answer over the rejected one, further than the average of the steps before."""

    api_version = 2
    paper = "none: made for the tests"
    data = "preference"
    needs = ("policy", "reference")
    saved = ("average", "step")
    metrics = {
        "margin": "β times the difference of the two log-ratios.",
        "accuracy": "Share of pairs with a positive margin.",
        "average": "The moving average of the margin.",
    }
    conformance = {
        "start": {"loss": math.log(2), "margin": 0.0, "accuracy": 0.0, "average": 0.0},
        "variants": [{"beta": 0.5, "loss": "hinge"}],
        "values": [
            {
                # z = 0.5·((−2 + 3) − (−6 + 5)) = 1, and −log σ(1) = 0.313262; −σ(−1)·β = −0.134471.
                "given": {
                    "policy": {"chosen": [-2.0], "rejected": [-6.0]},
                    "reference": {"chosen": [-3.0], "rejected": [-5.0]},
                    "lengths": {"chosen": [2], "rejected": [3]},
                },
                "options": {"beta": 0.5},
                "measured": {"margin": 0.0},
                "loss": 0.3132617,
                "metrics": {"margin": 1.0, "accuracy": 1.0},
                "gradients": {"chosen": [-0.1344707], "rejected": [0.1344707]},
            }
        ],
    }

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the margin."""
        loss: Literal["sigmoid", "hinge"] = "sigmoid"
        """sigmoid: −log σ(z); hinge: max(0, 1 − z)."""
        centred: bool = True
        """Take the moving average off."""

    def __init__(self):
        self.average, self.step = 0.0, -1

    def measure(self, batch, models, config):
        margin = self._margin(batch, models, config)
        return {"margin": (margin.sum(), len(margin))}

    def loss(self, batch, models, config, step):
        margin = self._margin(batch, models, config)
        if step != self.step:
            self.step = step
            self.average = 0.9 * self.average + 0.1 * self._seen(batch, margin)
        return self._result(margin - self.average if config.centred else margin, margin, config)

    def _seen(self, batch, margin):
        return float(batch.measured["margin"])

    def _result(self, z, margin, config):
        values = (1 - z).clamp(min=0) if config.loss == "hinge" else -logsigmoid(z)
        return Loss.per_example(values, self._metrics(margin))

    def _metrics(self, margin):
        return {"margin": margin, "accuracy": margin > 0, "average": margin.new_full(margin.shape, self.average)}

    def _margin(self, batch, models, config):
        chosen, rejected = self._sums(models.policy, batch)
        frozen = self._sums(models.reference, batch)
        return config.beta * (chosen - frozen[0] - rejected + frozen[1])

    def _sums(self, model, batch):
        return [logps.sum() for logps in model.logps(batch.chosen, batch.rejected)]
