"""The divergence of two language models at each token; the logits of the whole batch are never in memory.

As for log-probabilities, only the positions that predict a counted token reach the two output heads, and these a part
of the vocabulary at a time: one pass finds log Σ exp of both models, a second one adds up the divergence, and the
backward pass computes each part again. A head that is more than a product is called as it is, for a part of the
positions at a time.

With a list of words at each position, such as the teacher's likeliest k, all other words together are one class: what
the policy gives to them still counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.errors import ZooError
from zoo.models.logps import (
    WHOLE_LOGITS,
    Head,
    HeadGradients,
    Scaling,
    column_parts,
    inside_part,
    part_logits,
)  # fmt: skip

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
KINDS = ("forward_kl", "reverse_kl", "jsd")
POSITIONS = 1024
"""Positions in one chunk of logits; some six chunks exist at a time, of at most 16 MiB of float32 each."""


@dataclass(frozen=True)
class Divergence:
    """Which divergence of the policy p and the teacher q.

    forward_kl: KL(q ‖ p). reverse_kl: KL(p ‖ q). jsd: β KL(q ‖ m) + (1 − β) KL(p ‖ m), m = β q + (1 − β) p, equation 1
    of arXiv:2306.13649. Raises ZooError for another kind, and for a β that is not between 0 and 1.
    """

    kind: Kind
    beta: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ZooError(f"There is no divergence '{self.kind}'.", f"Kinds: {', '.join(KINDS)}.")
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ZooError(
                f"The Jensen-Shannon divergence with β {self.beta} is 0 for all models.",
                "Take a β between 0 and 1; its ends, scaled, are forward_kl (0) and reverse_kl (1).",
            )

    def summands(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """What each word adds, of the shape of its log-probs."""
        if self.kind == "forward_kl":
            return log_q.exp() * (log_q - log_p)
        if self.kind == "reverse_kl":
            return log_p.exp() * (log_p - log_q)
        mixture = self._mixture(log_p, log_q)
        of_teacher, of_policy = log_q.exp() * (log_q - mixture), log_p.exp() * (log_p - mixture)
        return self.beta * of_teacher + (1 - self.beta) * of_policy

    def slopes(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """p · dD/dp of each word, up to a constant times p, which the softmax takes away."""
        if self.kind == "forward_kl":
            return -log_q.exp()
        if self.kind == "reverse_kl":
            return log_p.exp() * (log_p - log_q)
        return (1 - self.beta) * log_p.exp() * (log_p - self._mixture(log_p, log_q))

    def _mixture(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return torch.logaddexp(log_q + math.log(self.beta), log_p + math.log1p(-self.beta))


class States(NamedTuple):
    """What a head reads at N positions, [N, D], and the head; N positions of two models are the same ones."""

    hidden: Tensor
    head: Head

    def cut(self, words: int) -> States:
        """The same without the words behind the first ones."""
        return self if words >= len(self.head.weight) else self._replace(head=self.head.cut(words))


def token_divergence(policy: States, teacher: States, divergence: Divergence, temperature: float = 1.0) -> Tensor:
    """The divergence over the whole vocabulary, float32 [N], with gradients to the policy's states and head.

    Both distributions are softmax(logits / temperature).
    """
    if policy.head.layer is not None or teacher.head.layer is not None:
        return _whole_divergence(policy, teacher, divergence, temperature)
    parts = (Scaling.of(states.head, states.hidden, temperature) for states in (policy, teacher))
    (hidden, head), (other, other_head) = policy, teacher
    return _Divergence.apply(
        hidden, head.weight, head.bias, other.detach(), _detached(other_head.weight), _detached(other_head.bias),
        *parts, divergence,
    )  # fmt: skip


def class_divergence(policy: States, ids: Tensor, log_q: Tensor, divergence: Divergence, temperature: float) -> Tensor:
    """The divergence over K words and one class of all others, float32 [N], with gradients as `token_divergence`.

    ids: int64 [N, K], different words; log_q: the teacher's log-probs of these classes, [N, K + 1].
    """
    log_p = class_logits(policy, ids, temperature).log_softmax(-1)
    return divergence.summands(log_p, log_q).sum(-1)


def class_logits(states: States, ids: Tensor, temperature: float) -> Tensor:
    """Logits of K words, int64 [N, K], and log Σ exp of all other words behind them; float32 [N, K + 1]."""
    hidden, head = states
    if head.layer is not None:
        return _whole_class_logits(states, ids, temperature)
    return _ClassLogits.apply(hidden, head.weight, head.bias, ids, Scaling.of(head, hidden, temperature))


@torch.no_grad()
def likeliest(states: States, count: int) -> Tensor:
    """The `count` likeliest words at each position, the likeliest first; int64 [N, count]."""
    hidden, head = states
    if head.layer is not None:
        return _by_blocks(lambda rows: head.logits(rows).topk(count).indices, head, hidden)
    scaling = Scaling.of(head, hidden, 1.0)
    blocks = _position_parts(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.cat([_likeliest_in(hidden[block].to(scaling.dtype), head, scaling, count) for block in blocks])


def _likeliest_in(rows: Tensor, head: Head, scaling: Scaling, count: int) -> Tensor:
    values = torch.full((len(rows), 0), 0.0, device=rows.device)
    ids = torch.zeros((len(rows), 0), dtype=torch.long, device=rows.device)
    for columns, logits, _, _ in _parts(rows, head.weight, head.bias, scaling):
        top = logits.topk(min(count, logits.shape[-1]))
        values, ids = torch.cat([values, top.values], -1), torch.cat([ids, top.indices + columns.start], -1)
        best = values.topk(min(count, values.shape[-1]))
        values, ids = best.values, ids.gather(-1, best.indices)
    return ids


# -- plain heads, by parts of the vocabulary -------------------------------------------------------------------------


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, other_weight: Tensor,
        other_bias: Tensor | None, scaling: Scaling, other_scaling: Scaling, divergence: Divergence,
    ) -> Tensor:  # fmt: skip
        computed = []
        with torch.autocast(hidden.device.type, enabled=False):
            for block in _position_parts(hidden):
                rows, others = hidden[block].to(scaling.dtype), other[block].to(other_scaling.dtype)
                total = _log_sum(_parts(rows, weight, bias, scaling), rows)
                other_total = _log_sum(_parts(others, other_weight, other_bias, other_scaling), rows)
                value, slope_sum = torch.zeros_like(total), torch.zeros_like(total)
                policy = _parts(rows, weight, bias, scaling)
                teacher = _parts(others, other_weight, other_bias, other_scaling)
                for (_, logits, _, _), (_, other_logits, _, _) in zip(policy, teacher, strict=True):
                    log_p, log_q = logits - total[:, None], other_logits - other_total[:, None]
                    value += divergence.summands(log_p, log_q).sum(-1)
                    slope_sum += divergence.slopes(log_p, log_q).sum(-1)
                computed.append((value, total, other_total, slope_sum))
        value, total, other_total, slope_sum = (torch.cat(parts) for parts in zip(*computed, strict=True))
        ctx.save_for_backward(hidden, weight, bias, other, other_weight, other_bias, total, other_total, slope_sum)
        ctx.constants = (scaling, other_scaling, divergence)
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, other, other_weight, other_bias, total, other_total, slope_sum = ctx.saved_tensors
        scaling, other_scaling, divergence = ctx.constants
        gradients = HeadGradients(hidden, weight, bias, ctx.needs_input_grad[:3], scaling)
        with torch.autocast(hidden.device.type, enabled=False):
            for block in _position_parts(hidden):
                rows, others = hidden[block].to(scaling.dtype), other[block].to(other_scaling.dtype)
                policy = _parts(rows, weight, bias, scaling)
                teacher = _parts(others, other_weight, other_bias, other_scaling)
                for (columns, logits, slope, matrix), (_, other_logits, _, _) in zip(policy, teacher, strict=True):
                    log_p, log_q = logits - total[block, None], other_logits - other_total[block, None]
                    # dD/dz = p (dD/dp − Σ p dD/dp).
                    grad = divergence.slopes(log_p, log_q) - log_p.exp() * slope_sum[block, None]
                    gradients.add(block, columns, grad.mul_(grad_value[block, None]), slope, rows, matrix)
        return *gradients.of_inputs(), *[None] * 6


class _ClassLogits(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, scaling: Scaling
    ) -> Tensor:
        computed = []
        with torch.autocast(hidden.device.type, enabled=False):
            for block in _position_parts(hidden):
                rows = hidden[block].to(scaling.dtype)
                listed = torch.zeros(ids[block].shape, device=hidden.device)
                rest = torch.full((len(rows),), -torch.inf, device=hidden.device)
                for columns, logits, _, _ in _parts(rows, weight, bias, scaling):
                    inside, place = inside_part(ids[block], columns)
                    listed = torch.where(inside, logits.gather(-1, place), listed)
                    rest = torch.logaddexp(rest, _without(logits, inside, place).logsumexp(-1))
                computed.append(torch.cat([listed, rest[:, None]], -1))
        classes = torch.cat(computed)
        ctx.save_for_backward(hidden, weight, bias, ids, classes[:, -1].clone())
        ctx.scaling = scaling
        return classes

    @staticmethod
    def backward(ctx: Any, grad_classes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, ids, rest = ctx.saved_tensors
        gradients = HeadGradients(hidden, weight, bias, ctx.needs_input_grad[:3], ctx.scaling)
        with torch.autocast(hidden.device.type, enabled=False):
            for block in _position_parts(hidden):
                rows = hidden[block].to(ctx.scaling.dtype)
                for columns, logits, slope, matrix in _parts(rows, weight, bias, ctx.scaling):
                    inside, place = inside_part(ids[block], columns)
                    grad = (_without(logits, inside, place) - rest[block, None]).exp_()
                    grad.mul_(grad_classes[block, -1:])
                    grad.scatter_add_(-1, place, torch.where(inside, grad_classes[block, :-1], 0.0))
                    gradients.add(block, columns, grad, slope, rows, matrix)
        return *gradients.of_inputs(), None, None


def _position_parts(hidden: Tensor) -> list[slice]:
    return [slice(start, start + POSITIONS) for start in range(0, max(1, len(hidden)), POSITIONS)]


def _parts(
    rows: Tensor, weight: Tensor, bias: Tensor | None, scaling: Scaling
) -> Iterator[tuple[slice, Tensor, Tensor | None, Tensor]]:
    """The columns of each part of the vocabulary, its logits, the slope of their softcap if any, and its weights."""
    for columns in column_parts(weight):
        matrix = weight[columns].to(scaling.dtype)
        yield columns, *part_logits(rows, matrix, None if bias is None else bias[columns], scaling), matrix


def _log_sum(parts: Iterator[tuple[slice, Tensor, Tensor | None, Tensor]], rows: Tensor) -> Tensor:
    """log Σ exp of the logits at each position, [N]."""
    total = torch.full((len(rows),), -torch.inf, device=rows.device)
    for _, logits, _, _ in parts:
        total = torch.logaddexp(total, logits.logsumexp(-1))
    return total


def _without(logits: Tensor, inside: Tensor, place: Tensor) -> Tensor:
    """The logits, −∞ at these places; in place."""
    # The smallest wins: a word outside of this part has some place too, and must not bring a logit back.
    marks = torch.where(inside, -torch.inf, torch.inf).to(logits.dtype)
    return logits.scatter_reduce_(-1, place, marks, "amin")


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


# -- heads that are called ---------------------------------------------------------------------------------------------


def _whole_divergence(policy: States, teacher: States, divergence: Divergence, temperature: float) -> Tensor:
    def of_block(rows: Tensor, others: Tensor) -> Tensor:
        log_p = (policy.head.logits(rows) / temperature).log_softmax(-1)
        with torch.no_grad():
            log_q = (teacher.head.logits(others) / temperature).log_softmax(-1)
        return divergence.summands(log_p, log_q).sum(-1)

    return _by_blocks(of_block, policy.head, policy.hidden, teacher.hidden)


def _whole_class_logits(states: States, ids: Tensor, temperature: float) -> Tensor:
    def of_block(rows: Tensor, listed: Tensor) -> Tensor:
        logits = states.head.logits(rows) / temperature
        rest = logits.scatter(-1, listed, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logits.gather(-1, listed), rest], -1)

    return _by_blocks(of_block, states.head, states.hidden, ids)


def _by_blocks(function: Callable[..., Tensor], head: Head, *tensors: Tensor) -> Tensor:
    """A function of N rows, by blocks whose logits fit into memory, and are made again for the gradient."""
    size = max(1, WHOLE_LOGITS // len(head.weight))
    blocks = [slice(start, start + size) for start in range(0, max(1, len(tensors[0])), size)]
    return torch.cat([checkpoint(function, *(t[block] for t in tensors), use_reentrant=False) for block in blocks])
