"""Its momentum moves weights that have no gradient in a step."""

import torch


class Rolling(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return super().step(closure)


def broken(groups):
    """Descent with momentum."""
    return Rolling([group.options() for group in groups], momentum=0.9)
