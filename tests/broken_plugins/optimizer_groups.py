"""Forgets the critic: only the weights of the policy are taken."""

import torch


def broken(groups):
    """Descent of the policy alone."""
    return torch.optim.SGD([group.options() for group in groups if group.role == "policy"])
