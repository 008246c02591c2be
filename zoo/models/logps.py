"""Log-probabilities of given tokens, without the logits of the batch ever standing in memory.

Only the positions that predict a counted token reach the output head, a chunk of them at a time; the backward pass
computes each chunk again. Inside a chunk everything after the matrix product is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 96 * 2**20
"""Size of one chunk of float32 logits."""


@dataclass(frozen=True)
class Head:
    """An output head: logits = softcap·tanh(scale·(h·Wᵀ + b) / softcap).

    weight [V, D]; bias [V] or None; scale and softcap as the model's configuration has them (0 for no softcap).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0

    @staticmethod
    def of(model: Any) -> Head:
        """The head of a Hugging Face causal language model."""
        layer = model.get_output_embeddings()
        config = model.config.get_text_config()
        divisor = getattr(config, "logits_scaling", None) or 1.0
        scale = (getattr(config, "logit_scale", None) or 1.0) / divisor
        return Head(layer.weight, getattr(layer, "bias", None), scale, config_softcap(config))


def config_softcap(config: Any) -> float:
    return float(getattr(config, "final_logit_softcapping", None) or 0.0)


def token_logps(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log p(target) at each of N positions, whether the target is the likeliest token, and the entropy on request.

    hidden [N, D] at the predicting positions; targets int64 [N] → float32 [N], bool [N], float32 [N] or None.
    p is softmax(logits / temperature). Log-probs and entropies carry gradients to hidden and to the head.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    logps, likeliest, entropies = _TokenLogps.apply(
        hidden, head.weight, head.bias, targets, head.scale, head.softcap, 1.0 / temperature, entropy, dtype
    )
    return logps, likeliest, entropies if entropy else None


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float,
        inverse_temperature: float,
        want_entropy: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.constants = (scale, softcap, inverse_temperature, want_entropy, dtype)
        logps = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies = torch.zeros_like(logps)
        likeliest = torch.empty_like(targets, dtype=torch.bool)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            for part in _chunks(len(hidden), len(weight)):
                logits, _ = _logits(hidden[part].to(dtype), matrix, bias, scale, softcap, inverse_temperature)
                total = logits.logsumexp(-1)
                chosen = logits.gather(-1, targets[part, None]).squeeze(-1)
                logps[part] = chosen - total
                likeliest[part] = chosen >= logits.amax(-1)
                if want_entropy:
                    entropies[part] = total - (torch.softmax(logits, -1) * logits).sum(-1)
        ctx.mark_non_differentiable(likeliest)
        return logps, likeliest, entropies

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_logps: Tensor, _: None, grad_entropies: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        scale, softcap, inverse_temperature, want_entropy, dtype = ctx.constants
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and need_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            for part in _chunks(len(hidden), len(weight)):
                rows = hidden[part].to(dtype)
                logits, slope = _logits(rows, matrix, bias, scale, softcap, inverse_temperature)
                grad = _grad_logits(logits, targets[part], grad_logps[part], grad_entropies[part], want_entropy)
                grad.mul_(inverse_temperature * scale)
                if slope is not None:
                    grad.mul_(slope)
                grad_low = grad.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = (grad_low @ matrix).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += grad_low.t() @ rows
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None, None


def _chunks(positions: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, start + size) for start in range(0, positions, size)]


def _logits(
    rows: Tensor, matrix: Tensor, bias: Tensor | None, scale: float, softcap: float, inverse_temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Float32 logits over the temperature, and the slope of the softcap where there is one."""
    logits = (rows @ matrix.t()).float()
    if bias is not None:
        logits += bias.float()
    slope = None
    if scale != 1.0:
        logits *= scale
    if softcap:
        squashed = torch.tanh(logits / softcap)
        slope = 1 - squashed**2
        logits = squashed * softcap
    if inverse_temperature != 1.0:
        logits *= inverse_temperature
    return logits, slope


def _grad_logits(logits: Tensor, targets: Tensor, grad_logps: Tensor, grad_entropies: Tensor, entropy: bool) -> Tensor:
    """d(log p_target)/dz = onehot − p, and dH/dz = −p(log p + H)."""
    probabilities = torch.softmax(logits, -1)
    if entropy:
        log_p = torch.log_softmax(logits, -1)
        surprise = (probabilities * log_p).sum(-1, keepdim=True)
        grad = -probabilities * (grad_logps[:, None] + grad_entropies[:, None] * (log_p - surprise))
    else:
        grad = probabilities.mul_(-grad_logps[:, None])
    grad.scatter_add_(-1, targets[:, None], grad_logps[:, None].to(grad.dtype))
    return grad
