"""Keeps its momentum beside its state, so that no checkpoint has it."""

import torch


class Forgetful(torch.optim.Optimizer):
    def __init__(self, groups):
        super().__init__(groups, {})
        self.momentum = {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    momentum = self.momentum.setdefault(parameter, torch.zeros_like(parameter))
                    momentum.mul_(0.9).add_(parameter.grad)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(momentum, alpha=-group["lr"])


def broken(groups):
    """Descent with momentum."""
    return Forgetful([group.options() for group in groups])
