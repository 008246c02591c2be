"""Gives all roles the learning rate of the first one."""

import torch


def broken(groups):
    """Descent at one rate."""
    return torch.optim.SGD([{**group.options(), "lr": groups[0].lr} for group in groups])
