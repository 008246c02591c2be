"""Lets norms and biases decay too."""

import torch


def broken(groups):
    """Descent with one weight decay for all weights."""
    decay = max(group.weight_decay for group in groups)
    return torch.optim.SGD([{**group.options(), "weight_decay": decay} for group in groups])
