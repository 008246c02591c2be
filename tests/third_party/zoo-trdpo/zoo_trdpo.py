"""TR-DPO: Trust Region Direct Preference Optimization (arXiv:2404.09656), with hard updates.

DPO against a reference that follows the policy: every τ steps it takes the policy's weights. The reference is a role of
this package's own, since the core's does not move in an offline run.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.api import Algorithm, Loss, Models, PreferenceBatch, Role, logsigmoid, require


class TRDPO(Algorithm):
    """Trust Region DPO: the reference takes the policy's weights every few steps."""

    api_version = 2
    paper = "arXiv:2404.09656"
    data = "preference"
    needs = ("policy", "anchor")
    own_roles = {"anchor": Role(about="The first reference; by default the weights that training starts from.")}
    saved = ("renewed",)
    defaults = {"lr": 1e-6}
    metrics = {"margin": "β times the difference of the two log-ratios.", "renewed": "The step of the last renewal."}
    conformance = {"start": {"margin": 0.0}, "variants": [{"beta": 0.5}]}
    renewed = 0

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β of the implicit reward."""
        renew_every: int = 512
        """Steps τ between two renewals of the reference."""

        def __post_init__(self) -> None:
            require(self.renew_every > 0, "renew_every must be above 0")

    def loss(self, batch: PreferenceBatch, models: Models, config: Config, step: int) -> Loss:
        """DPO's loss. All micro-batches of a step see the same reference."""
        due = step - step % config.renew_every
        if models.training and due > self.renewed:
            models["anchor"].renew()
            self.renewed = due
        chosen, rejected = (logps.sum() for logps in models.policy.logps(batch.chosen, batch.rejected))
        anchors = [logps.sum() for logps in models["anchor"].logps(batch.chosen, batch.rejected)]
        margin = config.beta * (chosen - anchors[0] - rejected + anchors[1])
        return Loss.per_example(-logsigmoid(margin), {"margin": margin, "renewed": margin * 0 + self.renewed})
