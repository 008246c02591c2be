"""Moves by noise that no seed decides."""

import torch


class Noisy(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        generator = torch.Generator()
        generator.seed()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad += torch.randn(parameter.shape, generator=generator)
        return super().step(closure)


def broken(groups):
    """Descent with noise."""
    return Noisy([group.options() for group in groups])
