"""Packs weights once for a whole rollout, on CPUs that compute in bfloat16.

A step of generation multiplies few rows with every weight. Each time, torch rounds the weights to bfloat16 (under
autocast) and copies them into the layout of its matrix kernels; with one row per sequence this takes as long as the
product. While `packed` is open, the linear layers keep the packed weights. The products are bit-equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.libraries.rounding import RoundedLinear
from zoo.libraries.turns import is_shared

ROWS = 64
"""A hint for the layout; other numbers of rows work as well and are about as fast."""


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Linear layers on the CPU compute with packed copies of their weights; without bfloat16 nothing happens.

    The copies take 2 bytes per weight. If a weight changes inside this context, the copies stay as they were.
    """
    layers = [
        layer for layer in model.modules() if type(layer) in (nn.Linear, RoundedLinear) and "forward" not in vars(layer)
    ]
    if is_shared(model):
        # The weights are not there.
        layers = []
    changed = []
    try:
        for layer in layers:
            forward = _forward(layer)  # type: ignore[arg-type]
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign, assignment]
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _forward(layer: nn.Linear) -> Callable[[Tensor], Tensor] | None:
    """The layer's forward pass with a packed copy; None if torch does not offer it."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    plain = type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16
    if layer.weight.device.type != "cpu" or not (autocast or plain):
        return None
    try:
        operations: Any = torch.ops.mkldnn
        weight = operations._reorder_linear_weight(layer.weight.detach().to(torch.bfloat16), ROWS)
        multiply = operations._linear_pointwise
    except (AttributeError, RuntimeError):
        return None
    bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(input: Tensor) -> Tensor:
        return multiply(input.to(torch.bfloat16), weight, bias, "none", [], "")

    return forward
