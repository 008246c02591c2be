"""Models that return given log-probs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.models.roles import Models
from zoo.types import Answer, Answers, Batch, TokenLogps


class _Given:
    """A role whose `logps` looks its answers up instead of scoring them."""

    def __init__(self, known: dict[int, TokenLogps]):
        self._known = known

    def logps(self, *answers: Answers, **options: Any) -> Any:
        found = tuple(self._known[id(part)] for part in answers)
        return found[0] if len(found) == 1 else found


def stand_ins(
    lengths: Mapping[str, Sequence[int]] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    fields: Mapping[str, Any] | None = None,
    **roles: Mapping[str, Tensor],
) -> tuple[Batch, Models]:
    """A batch and models for it: `stand_ins(policy={"chosen": t, "rejected": t}, reference={…})`.

    Each tensor is [B], log-probs of whole answers (spread evenly over `lengths[field]` tokens, 1 by default), or
    [B, T], log-probs of tokens (under `masks[field]`). Gradients flow back to them. `fields` are further batch fields.
    """
    names = list(next(iter(roles.values())))
    first = next(iter(roles.values()))
    shapes = {name: _mask(first[name], (lengths or {}).get(name), (masks or {}).get(name)) for name in names}
    answers = {name: Answers([Answer.of([0], [0] * int(row.sum())) for row in mask]) for name, mask in shapes.items()}
    batch = Batch(**answers, **(fields or {}))
    made = {
        role: _Given({id(answers[name]): _spread(given[name], shapes[name]) for name in names})
        for role, given in roles.items()
    }
    return batch, Models(**made)


def _mask(values: Tensor, lengths: Sequence[int] | None, mask: Tensor | None) -> Tensor:
    if mask is not None:
        return mask.bool()
    if values.ndim == 2:
        return torch.ones_like(values, dtype=torch.bool)
    counts = torch.as_tensor(lengths if lengths is not None else [1] * len(values))
    return torch.arange(int(counts.max()))[None] < counts[:, None]


def _spread(values: Tensor, mask: Tensor) -> TokenLogps:
    if values.ndim == 1:
        values = values[:, None] * mask / mask.sum(-1, keepdim=True).clamp(min=1)
    return TokenLogps(values, mask, likeliest=mask)
