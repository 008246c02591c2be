"""The weights of a model for a remote engine: their fingerprint, a merged copy, and log-probabilities to compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.libraries.architecture import evaluating
from zoo.models.scoring import plain_logps
from zoo.values.types import Answer


def fingerprint(model: Any) -> tuple[int, ...]:
    """Sums over the bits of each tensor; for all practical purposes they change with any weight."""
    as_whole = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.int8}
    return tuple(
        int(weight.detach().contiguous().view(as_whole[weight.element_size()]).sum(dtype=torch.int64))
        for weight in model.parameters()
    )


@torch.no_grad()
def own_logps(model: Any, answer: Answer) -> Tensor:
    """Log-probabilities of an answer's tokens by the model itself, float32 [C], on the CPU."""
    with evaluating(model):
        return plain_logps(model, answer).cpu()
