"""What algorithms that learn from rewards share: the clipped surrogate, KL estimates, whitening, groups of answers.

Pure functions. Those of a loss take no mean over tokens, because that belongs to the whole optimizer step; those of a
rollout see all of it, with NaN for a reward that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST_EXPONENT = 20.0
"""A token whose log-ratio lies beyond has no gradient there any more, instead of an infinite one."""


def kl_estimate(logps: Tensor, reference: Tensor, kind: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """Estimates of KL(π ‖ π_ref) from tokens that π drew, of the shape of `logps` (Schulman, "Approximating KL").

    With d = log π − log π_ref: k1 = d, without bias but noisy; k2 = d²/2; k3 = e^(−d) − 1 + d, without bias and never
    below 0. As a term of a loss they pull otherwise than their names say: k1 has no gradient in expectation, k2 that of
    KL(π ‖ π_ref), k3 that of KL(π_ref ‖ π). As a part of the reward k1 is the right one.
    """
    difference = logps - reference
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference**2 / 2
    return (-difference).clamp(max=LARGEST_EXPONENT).exp() - 1 + difference


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Values under the mask with mean 0 and the deviation 1 of a population, 0 elsewhere; any one shape.

    Statistics are float64, and equal values become exactly 0. shift_mean=False: their mean stays what it was.
    """
    mask = mask.bool()
    known = values.detach()[mask].double()
    if len(known) == 0:
        return torch.zeros_like(values)
    mean, scale = known.mean(), (known.var(correction=0) + 1e-8).rsqrt()
    # Of equal numbers the rounded mean is another one, and the scale 10⁴.
    centred = (values.double() - mean) * (scale if known.max() > known.min() else 0.0)
    return torch.where(mask, centred if shift_mean else centred + mean, 0.0).to(values.dtype)


class Surrogate(NamedTuple):
    """The clipped policy loss of every token, and what the clip did; all [B, T]."""

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor
    """Whether the ratio lies below the clip, and the advantage is one that would push it further."""
    clipped_high: Tensor


def clipped_surrogate(
    log_ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None
) -> Surrogate:
    """max(−A ρ, −A clip(ρ, 1 − low, 1 + high)), ρ = exp(log_ratio) (arXiv:1707.06347, equation 7).

    dual: where A < 0 the loss is at most −dual·A, dual > 1, without which a token with a large ratio has an unbounded
    one (arXiv:1912.09729, equation 5).
    """
    ratio = log_ratio.clamp(max=LARGEST_EXPONENT).exp()
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
    if dual is not None:
        loss = torch.where(advantage < 0, loss.minimum(-dual * advantage), loss)
    return Surrogate(loss, ratio, (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0))


def group_advantages(
    rewards: Tensor,
    baseline: Literal["group", "leave_one_out", "none"] = "group",
    scale: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> Tensor:
    """(r − mean) / (std + ε) of every group; rewards [P, G] → float64 [P, G], 0 where a reward is missing (NaN).

    baseline: the mean of the group, of the others in it, or nothing; scale: what is divided by, the standard deviation
    (of a sample) of the group, of all rewards, or nothing. With a baseline a group of equal rewards gives exactly 0.
    """
    rewards, known = rewards.double(), ~rewards.isnan()
    count = known.sum(1, keepdim=True)
    others = (count - 1).clamp(min=1)
    centred = torch.where(known, rewards - rewards.nanmean(1, keepdim=True), 0.0)
    divisor: Tensor | float = 1.0
    if scale == "group":
        divisor = ((centred**2).sum(1, keepdim=True) / others).sqrt() + epsilon
    elif scale == "batch":
        divisor = _deviation(rewards[known], epsilon)
    if baseline == "none":
        return torch.where(known, rewards, 0.0) / divisor
    if baseline == "leave_one_out":
        # r_i less the mean of the others.
        centred = centred * count / others
    # The mean of equal numbers is rounded, and a small ε would make full-size advantages of what is left.
    equal = rewards.nan_to_num(-torch.inf).amax(1) <= rewards.nan_to_num(torch.inf).amin(1)
    return (centred / divisor).masked_fill(equal[:, None] | ~known, 0.0)


def step_advantages(
    step_rewards: Sequence[Tensor], step_ends: Sequence[Sequence[int]], epsilon: float = 1e-4
) -> list[Tensor]:
    """Advantages of tokens from rewards of steps, for the answers of one group: float64 [C] for each.

    All step rewards of the group are normalised together; a token gets the sum of those of the steps that end with it
    or later. step_ends: position of the last token of each step, the last of which ends the answer.
    """
    every = torch.cat(list(step_rewards)).double()
    known = every[~every.isnan()]
    found = []
    for rewards, ends in zip(step_rewards, step_ends, strict=True):
        equal = len(known) == 0 or bool(known.max() == known.min())
        normal = (rewards.double() - known.mean()) / _deviation(known, epsilon) * (0.0 if equal else 1.0)
        to_come = normal.nan_to_num(0.0).flip(0).cumsum(0).flip(0)
        lengths = torch.tensor(ends, device=rewards.device).diff(prepend=torch.tensor([-1], device=rewards.device))
        found.append(to_come.repeat_interleave(lengths))
    return found


def _deviation(values: Tensor, epsilon: float) -> Tensor | float:
    """Standard deviation of a sample + ε; 1 where all are equal."""
    return values.std() + epsilon if len(values) > 1 and bool(values.max() > values.min()) else 1.0
