"""Linear layers that are not trained, with weights in 4 or 8 bits, and back (bitsandbytes, an extra).

Weights are quantised once and widened for each product, as QLoRA does it (arXiv:2305.14314): only memory changes hands,
products are those of the type that is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from zoo.libraries.quiet import quiet_bitsandbytes

QUANTISED = ("nf4", "int8")
"""Types of quantised weights: 4 bits whose scales, one for 64 weights, have 8 bits; or 8 bits with a scale a row."""
BLOCK = 64


class Scales:
    """What turns packed weights into numbers again."""

    def __init__(self, kind: str, state: Any):
        self.kind, self.state = kind, state

    def widen(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights, (outputs, inputs), in a type that floats."""
        functional = _functional()
        if self.kind == "int8":
            return functional.int8_vectorwise_dequant(packed, self.state).to(dtype)  # type: ignore[no-any-return]
        self.state.dtype = dtype
        return functional.dequantize_4bit(packed, self.state)  # type: ignore[no-any-return]

    def to(self, device: torch.device) -> None:
        if self.kind == "int8":
            self.state = self.state.to(device)
        else:
            self.state.to(device)

    @property
    def size(self) -> int:
        """Bytes."""
        if self.kind == "int8":
            return _bytes(self.state)
        outer = self.state.state2
        return sum(map(_bytes, (self.state.absmax, self.state.offset, outer.absmax)))


class QuantisedLinear(torch.nn.Linear):
    """A frozen layer whose weights are packed and widened for each product, and again for the gradient of the input."""

    scales: Scales

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        return _Widened.apply(input.to(dtype), self.weight, self.scales, self.bias)  # type: ignore[no-any-return]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.scales.to(self.weight.device)
        return self

    @property
    def size(self) -> int:
        """Bytes of the weights and their scales."""
        return _bytes(self.weight) + self.scales.size


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, packed: Tensor, scales: Scales, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(packed)
        ctx.scales = scales
        return linear(input, scales.widen(packed, input.dtype), None if bias is None else bias.to(input.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (packed,) = ctx.saved_tensors
        return grad @ ctx.scales.widen(packed, grad.dtype), None, None, None


def quantise(weight: Tensor, kind: str) -> tuple[Tensor, Scales]:
    """Packed weights and their scales. weight: (outputs, inputs); kind: of QUANTISED."""
    functional = _functional()
    if kind == "int8":
        packed, rows, _ = functional.int8_vectorwise_quant(weight.half())
        return packed, Scales(kind, rows)
    options = {"blocksize": BLOCK, "compress_statistics": True, "quant_type": kind}
    packed, state = functional.quantize_4bit(weight.float().contiguous(), **options)
    return packed, Scales(kind, state)


def quantise_linear(layer: Any, kind: str) -> None:
    """Make a frozen linear layer a quantised one."""
    packed, layer.scales = quantise(layer.weight.detach(), kind)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    layer.__class__ = QuantisedLinear


def widen_quantised(model: torch.nn.Module) -> None:
    """The quantised layers as ordinary ones in float32, with the weights that their packed ones stand for."""
    for layer in quantised_in(model):
        wide = layer.scales.widen(layer.weight, torch.float32)
        layer.weight = torch.nn.Parameter(wide, requires_grad=False)
        layer.__class__ = torch.nn.Linear  # type: ignore[assignment]
        del layer.scales


def quantised_in(model: torch.nn.Module) -> Iterator[QuantisedLinear]:
    return (layer for layer in model.modules() if isinstance(layer, QuantisedLinear))


def _functional() -> Any:
    quiet_bitsandbytes()
    from bitsandbytes import functional

    return functional


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
