"""Mixtures of experts: the weights of the experts, the routers, and what routers decide."""

from __future__ import annotations

from typing import Any


def expert_weights(model: Any) -> list[str]:
    """Names of the weights that hold all experts of a layer in one tensor, [experts, …, …]."""
    return [
        name for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and "expert" in name.rpartition(".")[0].lower()
    ]  # fmt: skip
