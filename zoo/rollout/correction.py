"""Bounded importance weights for answers that another engine than the trainer sampled.

A server uses other kernels, and often another precision, so the probability with which it sampled a token is not
quite the one that the trainer computes. The ratio of both, π_trainer / π_engine, is the weight of that token in an
expectation under the trainer's policy. A few tokens have very large ratios; the bound trades a small bias for their
variance.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def importance_weights(
    trainer: Tensor, engine: Tensor, mask: Tensor, *, cap: float = 2.0, beyond: Literal["truncate", "mask"] = "truncate"
) -> Tensor:
    """Weights [B, T] for the loss of each token, without gradient; 1 where `mask` is False.

    trainer, engine: log-probabilities [B, T] of the same tokens at the same temperature; mask: bool [B, T].
    cap: the largest weight. beyond: how to treat a token whose ratio is larger: "truncate" gives it the weight
    `cap` (truncated importance sampling: Ionides 2008; for language models Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training", with a cap of 2); "mask" gives it the weight 0 (the token is
    left out). A log-probability that is not finite gives weight 0.
    """
    difference = (trainer - engine).detach().float()
    # Capped before exp, to avoid overflow.
    weights = difference.clamp(max=torch.tensor(cap).log().item()).exp()
    if beyond == "mask":
        weights = weights.masked_fill(difference.exp() > cap, 0.0)
    weights = weights.masked_fill(~difference.isfinite(), 0.0)
    return weights.masked_fill(~mask, 1.0)
