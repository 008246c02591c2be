"""Functions of torch without a public name."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.libraries.reliance import relies_on

BFLOAT16_UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has AMX or AVX-512 BF16 units; without them bfloat16 is emulated and slow."""
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in BFLOAT16_UNITS)


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the scores from that of softmax(scores) = weights, over the last axis."""
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("torch", f"torch.cpu has at least one of {' and '.join(BFLOAT16_UNITS)}.")
def torch_tells_what_the_cpu_has() -> None:
    assert any(hasattr(torch.cpu, probe) for probe in BFLOAT16_UNITS), (
        "it has neither, so bfloat16 would never be chosen"
    )


@relies_on("torch", "`_softmax_backward_data` is the gradient of softmax over an axis.")
def the_gradient_of_softmax() -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)
    weights = scores.softmax(-1)
    (expected,) = torch.autograd.grad(weights, scores, grad)
    gap = float((softmax_backward(grad, weights.detach()) - expected).abs().max())
    assert gap < 1e-12, f"it differs by {gap:.2g}"
