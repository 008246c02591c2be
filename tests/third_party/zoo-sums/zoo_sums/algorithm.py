"""AWR: Advantage-Weighted Regression (arXiv:1910.00177).

Answers are learned like demonstrations, each with the weight exp((r − V)/λ) of how much better its reward r is than
what is usual, V. The reward of an answer is its label, 1 or 0. V is a running mean over all answers seen so far, in
place of the value function of the paper. An option adds a penalty for leaving the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.api import Algorithm, FeedbackBatch, Loss, Measured, Metric, Models


class AWR(Algorithm):
    """Advantage-Weighted Regression: learn answers by how much better than usual they are."""

    api_version = 2
    paper = "arXiv:1910.00177"
    data = "feedback"
    defaults = {"lr": 1e-4, "epochs": 3}
    saved = ("usual", "step")
    metrics = {
        "weight": "exp((r − V)/λ), the weight of an answer, at most max_weight.",
        "usual": "V, the running mean of the rewards.",
        "penalty": "Squared mean log-ratio to the reference, that penalty_weight weighs; absent where that is 0.",
    }
    conformance = {
        "variants": [{"penalty_weight": 0.5}],
        "values": [
            {
                # V = 0.5, so the weights are e and 1/e, of answers with a mean log-probability of −1.
                "given": {
                    "policy": {"completion": [-2.0, -4.0]},
                    "lengths": {"completion": [2, 4]},
                    "fields": {"label": [True, False]},
                },
                "options": {"beta": 0.5},
                "measured": {"reward": 0.5},
                "loss": 1.543081,
                "gradients": {"completion": [-0.679570, -0.045985]},
            }
        ],
    }

    @dataclass
    class Config:
        beta: float = 1.0
        """λ: how much better answers outweigh worse ones."""
        max_weight: float = 20.0
        """Weights are cut at this value, as in the paper."""
        rate: float = 0.1
        """Share of the newest step in the running mean V."""
        penalty_weight: float = 0.0
        """Weight of the squared log-ratio a token to the reference; 0 needs no reference."""

        def __post_init__(self) -> None:
            if self.beta <= 0:
                raise ValueError("beta must be above 0")

    def __init__(self) -> None:
        self.usual: float | None = None
        self.step = -1

    def needs(self, config: Config) -> tuple[str, ...]:
        return ("policy", "reference") if config.penalty_weight else ("policy",)

    def measure(self, batch: FeedbackBatch) -> Measured:
        return {"reward": (batch.label.float().sum(), len(batch))}

    def loss(self, batch: FeedbackBatch, models: Models, config: Config, step: int) -> Loss:
        """−w log π(y|x)/|y| with w = exp((r − V)/λ)."""
        usual = self._update(float(batch.measured["reward"]), config.rate, step)
        logps = models.policy.logps(batch.completion).mean()
        advantage = batch.label.float() - usual
        weight = (advantage / config.beta).exp().clamp(max=config.max_weight)
        values = -weight * logps
        metrics: dict[str, Metric] = {"weight": weight, "usual": weight * 0 + usual}
        if config.penalty_weight:
            penalty = (logps - models.reference.logps(batch.completion).mean()) ** 2
            metrics["penalty"] = penalty
            values = values + config.penalty_weight * penalty
        return Loss.per_example(values, metrics)

    def _update(self, reward: float, rate: float, step: int) -> float:
        """V after this step: moved once a step, by what all its micro-batches and processes share."""
        if self.usual is None or step != self.step:
            self.usual = reward if self.usual is None else (1 - rate) * self.usual + rate * reward
            self.step = step
        return self.usual
