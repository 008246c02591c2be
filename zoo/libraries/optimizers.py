"""Optimizers of transformers and bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.reliance import importing, relies_on

with importing("transformers"):
    from transformers.optimization import Adafactor

Groups = Sequence[dict[str, Any]]


def adafactor(groups: Groups, decay: float, clip: float) -> torch.optim.Optimizer:
    """Adafactor whose rate is that of the groups, as transformers' Trainer has it, and no relative one.

    decay: the exponent c of β₂ = 1 − step^c; clip: the largest root mean square of an update.
    """
    options = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return Adafactor(groups, lr=1e-3, decay_rate=decay, clip_threshold=clip, **options)


def adamw_8bit(groups: Groups, betas: tuple[float, float], eps: float, paged: bool = False) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes with moments of 8 bits. Raises ZooError for pages where there is no GPU."""
    if paged and not torch.cuda.is_available():
        raise ZooError(
            "The optimizer paged_adamw_8bit moves its state between a GPU and the memory of the machine, and torch "
            "sees no GPU here.",
            "Use --optimizer adamw_8bit.",
        )
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if paged else AdamW8bit)(groups, betas=betas, eps=eps)


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "Adafactor without relative steps obeys the rate of a group.", everywhere=False)
def adafactor_takes_the_rate_of_a_group() -> None:
    moved = []
    for lr in (0.1, 0.2):
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        weight.grad = torch.ones(2, 2)
        adafactor([{"params": [weight], "lr": lr}], -0.8, 1.0).step()
        moved.append(float(weight.detach().abs().mean()))
    assert abs(moved[0] - 0.1) < 1e-6 and abs(moved[1] - 0.2) < 1e-6, f"rates of 0.1 and 0.2 move it by {moved}"
