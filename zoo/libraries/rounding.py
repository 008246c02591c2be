"""Linear layers that are not trained, with weights in bfloat16, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


class RoundedLinear(torch.nn.Linear):
    """A frozen layer with weights in bfloat16, which computes in the precision of its input.

    Under autocast it computes what the layer in float32 does, to the last bit. Elsewhere its weights are widened for
    each product, and again for the gradient of the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a linear layer computes; weights that were rounded are widened for it, unless autocast rounds the input."""
    if torch.is_autocast_enabled(input.device.type) or input.dtype == weight.dtype:
        return linear(input, weight, bias)
    return _Widened.apply(input, weight, bias)


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        return linear(input, weight.to(input.dtype), None if bias is None else bias.to(input.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None, None


def frozen_linear(model: torch.nn.Module, but: Collection[torch.nn.Module | None] = ()) -> list[torch.nn.Linear]:
    """The frozen linear layers of a model, but some, and but those that share the weight of one of these."""
    kept = {id(layer.weight) for layer in but if layer is not None}
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
    return [layer for layer in layers if not layer.weight.requires_grad and id(layer.weight) not in kept]


def round_linear(layers: Iterable[torch.nn.Linear]) -> None:
    """Round frozen linear layers. What they share stays shared."""
    made: dict[int, torch.nn.Parameter] = {}
    for layer in layers:
        for name, value in list(layer.named_parameters(recurse=False)):
            rounded = torch.nn.Parameter(value.detach().bfloat16(), requires_grad=False)
            setattr(layer, name, made.setdefault(id(value), rounded))
        layer.__class__ = RoundedLinear


def widen_linear(model: torch.nn.Module) -> None:
    """The rounded layers as ordinary ones in float32."""
    for layer in model.modules():
        if isinstance(layer, RoundedLinear):
            layer.__class__ = torch.nn.Linear  # type: ignore[assignment]
            layer.float()
