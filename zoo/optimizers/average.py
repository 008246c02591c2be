"""An exponential moving average of the trained weights, kept in the optimizer's state beside its moments.

So a checkpoint, a part of a sharded weight and a rollback hold it as they hold moments. It begins with the weights
after the first step, as that of `torch.optim.swa_utils.AveragedModel` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from zoo.libraries.sharding import own_part

AVERAGE = "average"
"""The name of the average in the state of a weight."""


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """After a step: average ← decay · average + (1 − decay) · weight, for every weight that was ever moved."""
    for weight in _weights(optimizer):
        # Optimizers look whether a weight has any state yet: one that was never moved gets none here.
        if weight.grad is None and weight not in optimizer.state:
            continue
        state = optimizer.state[weight]
        if AVERAGE in state:
            own_part(state[AVERAGE]).lerp_(own_part(weight), 1 - decay)
        elif weight.grad is not None:
            state[AVERAGE] = weight.detach().clone()


@contextlib.contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, the weights are their averages."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


@torch.no_grad()
def take(optimizer: torch.optim.Optimizer) -> None:
    """Make the weights their averages, for good."""
    for weight in _weights(optimizer):
        if AVERAGE in optimizer.state.get(weight, {}):
            own_part(weight).copy_(own_part(optimizer.state[weight][AVERAGE]))


@torch.no_grad()
def _swap(optimizer: torch.optim.Optimizer) -> None:
    for weight in _weights(optimizer):
        if AVERAGE in optimizer.state.get(weight, {}):
            average = own_part(optimizer.state[weight][AVERAGE])
            before = own_part(weight).clone()
            own_part(weight).copy_(average)
            average.copy_(before)


def _weights(optimizer: torch.optim.Optimizer) -> Iterator[torch.nn.Parameter]:
    return (weight for group in optimizer.param_groups for weight in group["params"])
