"""The norm of a model's gradient, as exact as its elements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BLOCK = 4096
"""Elements whose squares are added up in float32; a sum of millions loses its digits there."""


def total_norm(gradients: Iterable[Tensor]) -> float:
    """√Σ g² over all elements of all gradients; 0 where there are none."""
    parts = [part for gradient in gradients for part in _norms_of_blocks(gradient.detach().reshape(-1))]
    # In one go, and on the CPU: some devices have no float64.
    return math.sqrt(float(torch.cat(parts).cpu().double().square().sum())) if parts else 0.0


def _norms_of_blocks(flat: Tensor) -> Iterator[Tensor]:
    whole = len(flat) // BLOCK * BLOCK
    parts = (flat[:whole].view(-1, BLOCK), flat[whole:].view(1, -1)) if whole else (flat.view(1, -1),)
    for part in parts:
        yield torch.linalg.vector_norm(part, dim=1, dtype=torch.promote_types(part.dtype, torch.float32))
