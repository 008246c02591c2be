"""Optimizers of transformers and bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from zoo.libraries.reliance import importing, relies_on

with importing("transformers"):
    from transformers.optimization import Adafactor

Groups = Sequence[dict[str, Any]]


class _Adafactor(Adafactor):
    """Its state is divided among processes as the weights are; transformers' begins with zeros that are not."""

    def step(self, closure: Any = None) -> Any:
        divided = [p for group in self.param_groups for p in group["params"] if isinstance(p.grad, DTensor)]
        for weight in divided:
            self.state[weight].update(self._divided(self.state[weight], weight.grad))
        loss = super().step(closure)
        for weight in divided:
            # Read for relative steps alone, and of a type that no checkpoint has.
            self.state[weight]["RMS"] = 0
        return loss

    @staticmethod
    @torch.no_grad()
    def _divided(state: dict[str, Any], gradient: DTensor) -> dict[str, Any]:
        """A state that begins, or was read as a whole: the means of rows and columns as this process keeps them."""
        if gradient.ndim < 2:
            return {} if state else {"step": 0, "RMS": 0, "exp_avg_sq": torch.zeros_like(gradient.float())}
        found = state or {"step": 0, "RMS": 0}
        for name, dim in (("exp_avg_sq_row", gradient.ndim - 1), ("exp_avg_sq_col", gradient.ndim - 2)):
            shape = [size for number, size in enumerate(gradient.shape) if number != dim]
            mean = found.get(name, torch.zeros(shape, device=gradient.device))
            if not isinstance(mean, DTensor):
                left = [_without(placement, dim) for placement in gradient.placements]
                # Without a source nothing is sent: each process cuts its part out.
                mean = distribute_tensor(mean, gradient.device_mesh, left, src_data_rank=None)
            found[name] = mean
        return found


def _without(placement: Placement, dim: int) -> Placement:
    """How a mean over a dimension is divided."""
    if not isinstance(placement, Shard) or placement.dim == dim:
        return Replicate()
    return Shard(placement.dim - (placement.dim > dim))


def adafactor(groups: Groups, decay: float, clip: float) -> torch.optim.Optimizer:
    """Adafactor whose rate is that of the groups, as transformers' Trainer has it, and no relative one.

    decay: the exponent c of β₂ = 1 − step^c; clip: the largest root mean square of an update.
    """
    options = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return _Adafactor(groups, lr=1e-3, decay_rate=decay, clip_threshold=clip, **options)


def adamw_8bit(groups: Groups, betas: tuple[float, float], eps: float, paged: bool = False) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes with moments of 8 bits. Pages need a GPU."""
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
