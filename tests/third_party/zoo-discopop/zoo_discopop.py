"""DiscoPOP: Discovered Preference Optimization (arXiv:2406.08414).

DPO's logistic loss where the order of a pair is wrong, and an exponential loss where it is right, with a smooth change
between the two. A language model proposed it, as the best of many losses that it wrote.

The loss is not convex: with τ = 0.05 its slope at margin 0 is positive, (1 − log 2)/(4τ) − 3/4 = 0.78. So the first
steps of a run lower the margin, until pairs settle below 0 or noise takes them over the hill.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.api import Algorithm, Loss, Models, PreferenceBatch, logsigmoid, require


class DiscoPOP(Algorithm):
    """Discovered Preference Optimization: a blend of the logistic and the exponential loss of a pair."""

    api_version = 2
    paper = "arXiv:2406.08414"
    data = "preference"
    needs = ("policy", "reference")
    defaults = {"lr": 5e-7, "batch_size": 64}
    metrics = {"margin": "β times the difference of the log-ratios of policy to reference; should grow."}
    conformance = {
        "start": {"margin": 0.0},
        "exceptions": {"right direction": "between the two losses the slope is positive: see above"},
        "values": [
            {
                # Printed by the loss `discopop` of TRL 1.16.0.
                "given": {
                    "policy": {"chosen": [-12.5, -20.0, -8.25, -30.0], "rejected": [-14.0, -18.5, -8.25, -45.5]},
                    "reference": {"chosen": [-13.0, -19.0, -8.0, -32.5], "rejected": [-13.5, -19.5, -8.75, -40.0]},
                },
                "loss": 0.7873888807307357,
                "gradients": {
                    "chosen": [0.0035675521776, 0.0020429990035, 0.0092780609842, -0.0083646893052],
                    "rejected": [-0.0035675521776, -0.0020429990035, -0.0092780609842, 0.0083646893052],
                },
            }
        ],
    }

    @dataclass
    class Config:
        beta: float = 0.05
        """Scale β of the margin."""
        blend_temperature: float = 0.05
        """Temperature τ of the change between the losses, below 1."""

        def __post_init__(self) -> None:
            require(self.beta > 0, "beta must be above 0")
            require(0 < self.blend_temperature < 1, "blend_temperature must be above 0 and below 1")

    def loss(self, batch: PreferenceBatch, models: Models, config: Config) -> Loss:
        """Equation 5."""
        policy, reference = (
            [logps.sum() for logps in role.logps(batch.chosen, batch.rejected)]
            for role in (models.policy, models.reference)
        )
        margin = config.beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
        sharp = margin / config.blend_temperature
        # σ(z/τ)·exp(−z) in logarithms, because exp(−z) overflows where σ(z/τ) is 0.
        losses = -(-sharp).sigmoid() * logsigmoid(margin) + (logsigmoid(sharp) - margin).exp()
        return Loss.per_example(losses, {"margin": margin})
