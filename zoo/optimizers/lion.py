"""Lion (EvoLved Sign Momentum; arXiv:2302.06675): every weight moves by the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of the paper, with decoupled weight decay."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        """c = β₁m + (1 − β₁)g; θ ← θ − η(sign c + λθ); m ← β₂m + (1 − β₂)g."""
        momentum = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
        lr, (beta1, beta2) = group["lr"], group["betas"]
        update = momentum.lerp(parameter.grad, 1 - beta1).sign_()
        parameter.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
        momentum.lerp_(parameter.grad, 1 - beta2)
