"""Learning-rate schedules and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

HEAD_LR = 5.0
"""The default learning rate of a critic's head, as a multiple of the policy's: the head starts at zero."""


def decay_begin(total: int, decay_share: float) -> int:
    """The first step (from 0) of the decay phase, which has at least one step."""
    return max(0, total - max(1, round(decay_share * total)))


def lr_factor(
    schedule: str, total: int, warmup: float, floor: float, decay_share: float = 0.1
) -> Callable[[int], float]:
    """The learning rate of step s (from 0) as a share of its peak.

    Linear warmup over `warmup` steps (below 1: a share of `total`), then cosine, linear or constant, ending at floor.
    wsd (warmup, stable, decay; arXiv:2404.06395) is constant until the last `decay_share` of the steps and falls
    linearly there; MiniCPM itself halves it every so many steps.
    """
    warm = round(warmup * total) if warmup < 1 else int(warmup)
    begin = max(warm, decay_begin(total, decay_share)) if schedule == "wsd" else warm

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        progress = min(1.0, max(0, step - begin) / max(1, total - begin))
        if schedule == "constant":
            return 1.0
        falling = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
        return floor + (1 - floor) * falling

    return factor


def make_optimizer(
    parameters: Mapping[str, Sequence[tuple[str, torch.nn.Parameter]]], core: Any
) -> torch.optim.Optimizer:
    """AdamW over the trained parameters by role; weight decay on matrices only, and a critic's own learning rate."""
    groups: list[dict[str, Any]] = []
    critic_lr = core.lr * (HEAD_LR if core.critic == "head" else 1.0) if core.critic_lr is None else core.critic_lr
    for role, named in parameters.items():
        lr = critic_lr if role == "critic" else core.lr
        decayed, plain = [p for _, p in named if p.ndim >= 2], [p for _, p in named if p.ndim < 2]
        groups.append({"params": decayed, "weight_decay": core.weight_decay, "lr": lr})
        groups.append({"params": plain, "weight_decay": 0.0, "lr": lr})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=core.lr,
        betas=(core.adam_beta1, core.adam_beta2),
        eps=core.adam_eps,
        fused=True,
    )
