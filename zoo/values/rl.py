"""Shared functions of algorithms that learn from rewards: KL estimates, whitening, clipped surrogate, critic targets.

They are pure functions. Those for a loss take no mean over tokens, because the mean is over the whole optimizer step;
those for a rollout see the whole rollout.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST_EXPONENT = 20.0
"""Log-ratios are clamped to this, so that a token beyond it has no gradient instead of an infinite one."""


def kl_estimate(logps: Tensor, reference: Tensor, kind: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """Estimates of KL(π ‖ π_ref) from tokens sampled from π, of the shape of `logps` (Schulman, "Approximating KL").

    With d = log π − log π_ref: k1 = d, unbiased but noisy; k2 = d²/2; k3 = e^(−d) − 1 + d, unbiased and never negative.
    As a term of a loss, their expected gradients differ from that of their value: k1 has none, k2 has that of
    KL(π ‖ π_ref), and k3 that of KL(π_ref ‖ π). As a part of the reward, k1 is the right one.
    """
    difference = logps - reference
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference**2 / 2
    return (-difference).clamp(max=LARGEST_EXPONENT).exp() - 1 + difference


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Values under the mask with mean 0 and population standard deviation 1, 0 elsewhere; both of any one shape.

    Statistics are float64, and equal values become exactly 0. shift_mean=False: keep their mean.
    """
    mask = mask.bool()
    masked = values.detach()[mask].double()
    if len(masked) == 0:
        return torch.zeros_like(values)
    mean, scale = masked.mean(), (masked.var(correction=0) + 1e-8).rsqrt()
    # The mean of equal numbers may differ from them by rounding, and the scale would be 10⁴.
    centred = (values.double() - mean) * (scale if masked.max() > masked.min() else 0.0)
    return torch.where(mask, centred if shift_mean else centred + mean, 0.0).to(values.dtype)


class Surrogate(NamedTuple):
    """The clipped policy loss of every token, and the effect of the clip; all [B, T]."""

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor
    """Whether the ratio is below the clip range and the advantage would push it further down."""
    clipped_high: Tensor


def clipped_surrogate(
    log_ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None
) -> Surrogate:
    """max(−A ρ, −A clip(ρ, 1 − low, 1 + high)), ρ = exp(log_ratio) (arXiv:1707.06347, equation 7).

    dual: for A < 0 the loss is at most −dual·A, with dual > 1; without it, the loss of a token with a large ratio is
    unbounded (arXiv:1912.09729, equation 5).
    """
    ratio = log_ratio.clamp(max=LARGEST_EXPONENT).exp()
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
    if dual is not None:
        loss = torch.where(advantage < 0, loss.minimum(-dual * advantage), loss)
    return Surrogate(loss, ratio, (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0))


def sequence_log_ratio(
    log_ratio: Tensor, mask: Tensor, kind: Literal["token", "sequence", "sequence_token", "sequence_sum"]
) -> Tensor:
    """log ρ of each token, or that of its whole answer, [B, T]; log_ratio must be 0 where the mask is False.

    sequence: log of the geometric mean of the tokens' ratios (arXiv:2507.18071, equation 7); sequence_token: the same
    value with the gradient of the token's own ratio (equation 14); sequence_sum: log of their product.
    """
    if kind == "token":
        return log_ratio
    whole = log_ratio.sum(-1, keepdim=True)
    if kind != "sequence_sum":
        whole = whole / mask.sum(-1, keepdim=True).clamp(min=1)
    if kind == "sequence_token":
        return whole.detach() + log_ratio - log_ratio.detach()
    return whole.expand_as(log_ratio)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates (arXiv:1506.02438) and returns, all [B, T].

    A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} − V_t, and A + V. V past the end is 0. Tokens outside the mask
    are skipped: the next state is that of the next token in the mask.
    """
    advantages = torch.zeros_like(values)
    following, value = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * value - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * gae_lambda * following, following)
        value = torch.where(mask[:, t], values[:, t], value)
        advantages[:, t] = following * mask[:, t]
    return advantages, (advantages + values) * mask


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """½ max((V − R)², (clip(V, V_old ± ε) − R)²), and whether the clip decides; all [B, T]. clip 0: ½(V − R)²."""
    plain = (values - returns) ** 2 / 2
    if not clip:
        return plain, torch.zeros_like(plain, dtype=torch.bool)
    # Values within the clip stay unchanged: old + (V − old) would differ from V by rounding and count as clipped.
    beyond = (values - old).abs() > clip
    held = (torch.where(beyond, old + (values - old).clamp(-clip, clip), values) - returns) ** 2 / 2
    return torch.maximum(plain, held), held > plain


def to_go(values: Tensor) -> Tensor:
    """The sum from each place of the last axis to its end: Σ_{s ≥ t} v_s."""
    return values.flip(-1).cumsum(-1).flip(-1)


def variance(values: Tensor, mask: Tensor) -> Tensor:
    """The population variance of the values under the mask, float64; NaN if the mask is empty."""
    return values[mask].double().var(correction=0) if mask.any() else torch.tensor(torch.nan)


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R): 1 for a critic that knows the returns, 0 for a constant critic."""
    return 1 - variance(returns - values, mask) / variance(returns, mask)
