"""Rho-1: selective language modelling (arXiv:2404.07965).

Not all tokens are what one needs: of each text only those tokens are learned whose loss exceeds that of a guide the
most, a model that was trained on good texts. The guide is a role of this package's own, which a run has to name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.api import Algorithm, DemonstrationBatch, Loss, Models, Role, TokenLogps, require


class Rho1(Algorithm):
    """Selective language modelling: learns the tokens whose loss exceeds a guide's the most."""

    api_version = 2
    paper = "arXiv:2404.07965"
    data = "demonstration"
    needs = ("policy", "guide")
    own_roles = {"guide": Role(start="named", ahead=True, about="The model that says which tokens are worth learning.")}
    metrics = {"excess": "By how much the loss of the chosen tokens exceeds the guide's."}
    conformance = {"variants": [{"share": 1.0}]}

    @dataclass
    class Config:
        share: float = 0.6
        """Share of the tokens of an answer that are learned. Paper: 0.6."""

        def __post_init__(self) -> None:
            require(0 < self.share <= 1, "share must be above 0 and at most 1")

    def loss(self, batch: DemonstrationBatch, models: Models, config: Config) -> Loss:
        """Equation 4."""
        logps, guide = models.policy.logps(batch.completion), models["guide"].logps(batch.completion)
        excess = guide.per_token - logps.per_token.detach()
        chosen = largest(excess, logps, config.share)
        return Loss.per_token(-logps.per_token, chosen, {"excess": (excess, chosen)})


def largest(excess: Tensor, logps: TokenLogps, share: float) -> Tensor:
    """The tokens with the largest excess of each row, bool [B, T]: that share of those that count, at least one."""
    counts = (logps.lengths * share).ceil().clamp(min=1)
    order = excess.where(logps.mask, -math.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1]).expand_as(order).to(order.device))
    return (rank < counts[:, None]) & logps.mask
