"""Log-probabilities of given tokens; the logits of the whole batch are never in memory.

Only the positions that predict a counted token reach the output head, and that a part of the vocabulary at a time:
the forward pass keeps log Σ exp of each position, the backward pass computes each part again. Inside a part everything
after the matrix product is float32. A head that is more than a product, such as one with adapters, is called as it is,
for a part of the positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.libraries.heads import output_head

COLUMNS = 4096
"""Words of the vocabulary in one chunk of logits."""
POSITIONS = 4096
"""Positions in one chunk of logits, of which one exists at a time: at most 64 MiB of float32."""
WHOLE_LOGITS = 1 << 24
"""Logits that a head which is called as it is makes at a time, over the whole vocabulary."""


@dataclass(frozen=True)
class Head:
    """An output head: logits = softcap·tanh(scale·(h·Wᵀ + b) / softcap).

    weight [V, D]; bias [V] or None; scale and softcap as the model applies them (0 for no softcap). layer: computes
    h·Wᵀ + b itself where there is more to it, such as adapters.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    layer: Callable[[Tensor], Tensor] | None = None

    @staticmethod
    def of(model: Any) -> Head | None:
        """The head of a Hugging Face causal language model; None where only its own forward pass makes its logits."""
        found = output_head(model)
        if found is None:
            return None
        own = None if found.is_plain else found.layer
        return Head(found.layer.weight, getattr(found.layer, "bias", None), found.scale, found.softcap, own)

    @staticmethod
    def of_logits(model: Any) -> Head:
        """A head whose hidden states are logits already."""
        return Head(model.get_input_embeddings().weight, layer=lambda logits: logits)

    def cut(self, words: int) -> Head:
        """The head of the first words alone."""
        bias, layer = self.bias, self.layer
        own = None if layer is None else lambda hidden: layer(hidden)[..., :words]
        return replace(self, weight=self.weight[:words], bias=None if bias is None else bias[:words], layer=own)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits over the whole vocabulary, [N, V]."""
        scaling = Scaling(self.scale, self.softcap, 1.0, torch.float32)
        if self.layer is not None:
            return scaled(self.layer(hidden).float(), None, scaling)[0]
        return part_logits(hidden.float(), self.weight.float(), self.bias, scaling)[0]


def token_logps(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log p(target) at each of N positions, whether the target is the likeliest token, and on request the entropy.

    hidden [N, D] at the predicting positions; targets int64 [N] → float32 [N], bool [N], float32 [N] or None.
    p is softmax(logits / temperature). Log-probs and entropies carry gradients to hidden and to the head.
    """
    if head.layer is not None:
        return _whole_token_logps(hidden, head, targets, temperature, entropy)
    scaling = Scaling.of(head, hidden, temperature)
    logps, likeliest, entropies = _TokenLogps.apply(hidden, head.weight, head.bias, targets, scaling, entropy)
    return logps, likeliest, entropies if entropy else None


def _whole_token_logps(
    hidden: Tensor, head: Head, targets: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `token_logps`, by calling the head; the logits of a part of the positions are made again for its gradient."""

    def of_block(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(head.logits(rows) / temperature, -1)
        entropies = -(log_p.exp() * log_p).sum(-1) if entropy else log_p.new_zeros(len(rows))
        return log_p.gather(-1, wanted[:, None]).squeeze(-1), log_p.argmax(-1) == wanted, entropies

    size = max(1, WHOLE_LOGITS // len(head.weight))
    blocks = [slice(start, start + size) for start in range(0, max(1, len(hidden)), size)]
    found = [checkpoint(of_block, hidden[block], targets[block], use_reentrant=False) for block in blocks]
    logps, likeliest, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logps, likeliest, entropies if entropy else None


@dataclass(frozen=True)
class Scaling:
    """How products of hidden states and weights become logits, and the type they are computed in."""

    scale: float
    softcap: float
    temperature: float
    dtype: torch.dtype

    @staticmethod
    def of(head: Head, hidden: Tensor, temperature: float) -> Scaling:
        """In the type of the hidden states, or that of autocast."""
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        return Scaling(head.scale, head.softcap, temperature, dtype)

    @property
    def slope(self) -> float:
        """d logit / d product, without the softcap."""
        return self.scale / self.temperature


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: Scaling,
        want_entropy: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        blocks = [slice(start, start + POSITIONS) for start in range(0, max(1, len(hidden)), POSITIONS)]
        with torch.autocast(hidden.device.type, enabled=False):
            computed = [
                _forward_block(hidden[block].to(scaling.dtype), weight, bias, targets[block], scaling, want_entropy)
                for block in blocks
            ]
        logps, likeliest, entropies, totals = (torch.cat(parts) for parts in zip(*computed, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropies)
        ctx.constants = (blocks, scaling, want_entropy)
        ctx.mark_non_differentiable(likeliest)
        return logps, likeliest, entropies

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_logps: Tensor, _: None, grad_entropies: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, totals, entropies = ctx.saved_tensors
        blocks, scaling, want_entropy = ctx.constants
        gradients = HeadGradients(hidden, weight, bias, ctx.needs_input_grad[:3], scaling)
        with torch.autocast(hidden.device.type, enabled=False):
            for block in blocks:
                rows = hidden[block].to(scaling.dtype)
                for columns in column_parts(weight):
                    matrix = weight[columns].to(scaling.dtype)
                    logits, slope = part_logits(rows, matrix, None if bias is None else bias[columns], scaling)
                    logits -= totals[block, None]
                    factor = grad_logps[block, None]
                    if want_entropy:
                        # d log p_t / dz = onehot − p, and dH/dz = −p (log p + H).
                        factor = factor + grad_entropies[block, None] * (logits + entropies[block, None])
                    grad = logits.exp_().mul_(-factor)
                    inside, place = inside_part(targets[block, None], columns)
                    grad.scatter_add_(-1, place, torch.where(inside, grad_logps[block, None], 0.0).to(grad.dtype))
                    gradients.add(block, columns, grad, slope, rows, matrix)
        return *gradients.of_inputs(), None, None, None


class HeadGradients:
    """Adds up the gradients of hidden states [N, D], weight [V, D] and bias [V], where they are needed."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: Sequence[bool], scaling: Scaling):
        self.scaling, self.dtype = scaling, hidden.dtype
        self.hidden = torch.zeros_like(hidden, dtype=torch.float32) if needed[0] else None
        self.weight = torch.empty_like(weight) if needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(
        self, block: slice, columns: slice, grad: Tensor, slope: Tensor | None, rows: Tensor, matrix: Tensor
    ) -> None:
        """grad: of a part of the logits, which is overwritten; slope, rows, matrix: what these were made with."""
        grad.mul_(self.scaling.slope if slope is None else slope.mul_(self.scaling.slope))
        low = grad.to(self.scaling.dtype)
        if self.hidden is not None:
            self.hidden[block] += low @ matrix
        if self.weight is not None:
            # Each part of the weights is written once: adding would cost as much as the product.
            part = low.t() @ rows
            self.weight[columns] = part if block.start == 0 else self.weight[columns] + part
        if self.bias is not None:
            self.bias[columns] += grad.sum(0)

    def of_inputs(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return None if self.hidden is None else self.hidden.to(self.dtype), self.weight, self.bias


def _forward_block(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: Scaling, want_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, whether likeliest, entropies and log Σ exp of a block of positions, by parts of the vocabulary.

    In bfloat16 the target's own logit is made from the same inputs in float32: a logit of 20 has a rounding error of
    up to 0.06, which is more than anything else adds to the noise of a log-prob.
    """
    # Σ exp(z − best) and Σ exp(z − best)(z − best) so far. A finite start, because 0 · ∞ is NaN.
    best = torch.full((len(rows),), torch.finfo(torch.float32).min, device=rows.device)
    size, moment = torch.zeros_like(best), torch.zeros_like(best)
    matched = weight[targets].to(scaling.dtype)
    product = (rows.float() * matched.float()).sum(-1)
    chosen = scaled(product, None if bias is None else bias[targets], scaling)[0]
    for columns in column_parts(weight):
        matrix = weight[columns].to(scaling.dtype)
        logits, _ = part_logits(rows, matrix, None if bias is None else bias[columns], scaling)
        inside, place = inside_part(targets[:, None], columns)
        logits.scatter_(-1, place, torch.where(inside, chosen[:, None], logits.gather(-1, place)))
        top = logits.amax(-1)
        shares = torch.softmax(logits, -1)
        former, best = best, torch.maximum(best, top)
        shrink = (former - best).exp()
        # The largest share is 1 / Σ exp(z − top): several times as fast as logsumexp, and as exact.
        more = (top - best).exp() / shares.amax(-1)
        if want_entropy:
            here = shares.mul_(logits.sub_(top[:, None])).sum(-1)
            moment = shrink * (moment + size * (former - best)) + more * (here + top - best)
        size = shrink * size + more
    total = best + size.log()
    entropies = size.log() - moment / size if want_entropy else torch.zeros_like(total)
    return chosen - total, chosen >= best, entropies, total


def column_parts(weight: Tensor) -> list[slice]:
    return [slice(start, min(start + COLUMNS, len(weight))) for start in range(0, len(weight), COLUMNS)]


def inside_part(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in this part of the vocabulary, and their columns in it (any for the rest); both [N, K]."""
    place = targets - columns.start
    inside = (place >= 0) & (place < columns.stop - columns.start)
    return inside, torch.where(inside, place, 0)


def part_logits(rows: Tensor, matrix: Tensor, bias: Tensor | None, scaling: Scaling) -> tuple[Tensor, Tensor | None]:
    """Float32 logits, divided by the temperature, and the slope of the softcap if there is one."""
    return scaled((rows @ matrix.t()).float(), bias, scaling)


def scaled(logits: Tensor, bias: Tensor | None, scaling: Scaling) -> tuple[Tensor, Tensor | None]:
    if bias is not None:
        logits += bias.float()
    slope = None
    if scaling.scale != 1.0:
        logits *= scaling.scale
    if scaling.softcap:
        squashed = torch.tanh(logits / scaling.softcap)
        slope = 1 - squashed**2
        logits = squashed * scaling.softcap
    if scaling.temperature != 1.0:
        logits /= scaling.temperature
    return logits, slope
