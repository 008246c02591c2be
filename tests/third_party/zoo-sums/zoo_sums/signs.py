"""An optimizer and a schedule: signSGD with momentum (arXiv:1802.04434), and a rate that falls in stairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.api import ParameterGroup


class Signs(torch.optim.Optimizer):
    """Moves every weight by the sign of its momentum."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(momentum.sign(), alpha=-group["lr"])
        return None


def signs(groups: Sequence[ParameterGroup], momentum: float = 0.9) -> Any:
    """signSGD with momentum (arXiv:1802.04434)."""
    return Signs([group.options() for group in groups], {"momentum": momentum})


def stairs(step: int, total: int, warmup: int, height: float = 0.5, stairs: int = 3) -> float:
    """Falls to a share of itself several times, after equal parts of the run."""
    return height ** (stairs * (step - warmup) // max(1, total - warmup))
