"""What a `loss` hook returns: numerators with their weights, and the sums for metrics.

The core takes the mean over every micro-batch and process of an optimizer step, so that a result does not depend on
how the step was split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Metric = Tensor | tuple[Tensor, Tensor]
"""Values alone, or values with their weights; NaN values are left out of the mean."""
Measured = Mapping[str, Tensor | float | tuple[Tensor | float, Tensor | float]]
"""What a hook `measure` returns: a sum with its count, or a sum, by name."""
LARGEST = "_max"
"""The ending of a metric's name if it is not a mean, but the largest value of the step with a nonzero weight."""


@dataclass
class Loss:
    """Numerators, never means: the core divides by the denominator of the whole optimizer step.

    values: any shape with an example in each row; weights: the same shape. The step's loss is
    Σ values·weights / Σ weights, both sums over every micro-batch and process. trains: the roles whose weights this
    step updates, None for all trained roles that the step's losses reach; other roles, including their momentum, do not
    change. It must be the same in all micro-batches of a step. If the critic is a head, its weights are only the
    head's; its gradient for the policy's weights below it counts as the policy's.
    """

    values: Tensor
    weights: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)
    trains: tuple[str, ...] | None = None

    @staticmethod
    def per_example(
        values: Tensor, metrics: Mapping[str, Metric] | None = None, *, trains: Sequence[str] | None = None
    ) -> Loss:
        """Mean over examples; values [B]."""
        if values.ndim != 1:
            raise ValueError(f"Loss.per_example takes one value per example, [B], got {tuple(values.shape)}.")
        return Loss(values, torch.ones_like(values), dict(metrics or {}), _roles(trains))

    @staticmethod
    def per_token(
        values: Tensor, mask: Tensor, metrics: Mapping[str, Metric] | None = None, *,
        trains: Sequence[str] | None = None,
    ) -> Loss:  # fmt: skip
        """Mean over the tokens under the mask; values and mask [B, T].

        Metrics of the same shape are means over the same tokens.
        """
        if values.shape != mask.shape:
            raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} differ in shape.")
        masked = {
            name: (value, mask) if isinstance(value, Tensor) and value.shape == mask.shape else value
            for name, value in (metrics or {}).items()
        }
        return Loss(torch.where(mask.bool(), values, 0.0), mask.to(values.dtype), masked, _roles(trains))

    @staticmethod
    def weighted(
        values: Tensor, weights: Tensor, metrics: Mapping[str, Metric] | None = None, *,
        trains: Sequence[str] | None = None,
    ) -> Loss:  # fmt: skip
        """Weighted mean; values and weights have the same shape."""
        if values.shape != weights.shape:
            raise ValueError(f"values {tuple(values.shape)} and weights {tuple(weights.shape)} differ in shape.")
        return Loss(values, weights.detach().to(values.dtype), dict(metrics or {}), _roles(trains))

    @property
    def numerator(self) -> Tensor:
        return (self.values * self.weights).sum()

    @property
    def denominator(self) -> Tensor:
        return self.weights.sum()

    def mean(self) -> Tensor:
        """The loss if this were the whole step, for tests of formulas."""
        return self.numerator / self.denominator.clamp(min=torch.finfo(self.weights.dtype).tiny)


def _roles(trains: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(trains, str):
        raise ValueError(f"trains takes a tuple of role names: write trains=({trains!r},).")
    return None if trains is None else tuple(trains)


def metric_sums(metrics: Mapping[str, Metric]) -> dict[str, tuple[Tensor, Tensor]]:
    """Weighted sum and weight of every metric, float64 scalars; NaN entries are missing, not zero.

    For a metric whose name ends in `_max`: its largest value and 1, or 0 and 0 if nothing counts.
    """
    sums = {}
    for name, metric in metrics.items():
        values, weights = (
            metric if isinstance(metric, tuple) else (metric, torch.ones_like(metric, dtype=torch.float64))
        )
        values = values.detach().double()
        weights = weights.detach().double() * ~values.isnan()
        if name.endswith(LARGEST):
            counted = values[weights > 0]
            sums[name] = (counted.max(), values.new_ones(())) if len(counted) else (values.new_zeros(()),) * 2
            continue
        # Infinity is a result and is kept, unless its weight is 0.
        sums[name] = (torch.where(weights == 0, 0.0, values * weights).sum(), weights.sum())
    return sums
