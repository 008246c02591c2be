"""The norm of a model's gradient, as exact as its elements; and which models a gradient reaches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from zoo.libraries.sharding import is_part, leaves, own_part
from zoo.processes import from_all, tensor_group

BLOCK = 4096
"""Elements whose squares are added up in float32; a sum of millions loses its digits there."""


def total_norm(gradients: Iterable[Tensor], apart: Sequence[bool] | None = None) -> float:
    """√Σ g² over all elements of all gradients; 0 where there are none.

    Of gradients that are shared out each process adds up its part; all of them call it together. apart: of which the
    processes of a tensor group hold different parts; all others they have in the same way.
    """
    listed = list(gradients)
    is_apart = apart or [False] * len(listed)
    kinds = [(is_part(gradient), among) for gradient, among in zip(listed, is_apart, strict=True)]
    squares = {
        kind: _square(own_part(gradient) for gradient, own in zip(listed, kinds, strict=True) if own == kind)
        for kind in set(kinds)
    }
    square = squares.pop((False, False), 0.0)
    if squares:
        size = tensor_group().size
        for rank, theirs in enumerate(from_all(squares)):
            square += sum(of for (_, among), of in theirs.items() if among or rank % size == 0)
    return math.sqrt(square)


def _square(gradients: Iterable[Tensor]) -> float:
    norms = [part for gradient in gradients for part in _norms_of_blocks(gradient.detach().reshape(-1))]
    # In one go, and on the CPU: some devices have no float64.
    return float(torch.cat(norms).cpu().double().square().sum()) if norms else 0.0


def reached(loss: Tensor, models: Mapping[str, torch.nn.Module]) -> set[str]:
    """The names of the models with a weight that has a gradient, or that the loss will give one."""
    weights = {name: leaves(model) for name, model in models.items()}
    found = {name for name, own in weights.items() if any(not is_part(p) and p.grad is not None for p in own)}
    owner = {id(p): name for name, own in weights.items() for p in own}
    seen, waiting = set(), [loss.grad_fn]
    while waiting and len(found) < len(models):
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Only the nodes that collect the gradient of a weight have a variable.
        found |= {owner[i] for i in (id(getattr(node, "variable", None)),) if i in owner}
        waiting += [following for following, _ in node.next_functions]
    return found


def _norms_of_blocks(flat: Tensor) -> Iterator[Tensor]:
    whole = len(flat) // BLOCK * BLOCK
    parts = (flat[:whole].view(-1, BLOCK), flat[whole:].view(1, -1)) if whole else (flat.view(1, -1),)
    for part in parts:
        yield torch.linalg.vector_norm(part, dim=1, dtype=torch.promote_types(part.dtype, torch.float32))
