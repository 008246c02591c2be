"""Optimizers and schedules: how gradients move the weights, and how fast in which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ParameterGroup:
    """Trained weights of one role that have one learning rate and one weight decay.

    role: policy or critic; names, parameters, hidden: one each per weight. hidden: whether it is a matrix inside the
    network, which embeddings, output heads, norms and biases are not.
    """

    role: str
    lr: float
    weight_decay: float
    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    hidden: tuple[bool, ...]

    def options(self) -> dict[str, Any]:
        """The group as an optimizer of torch takes it."""
        return {"params": list(self.parameters), "lr": self.lr, "weight_decay": self.weight_decay}

    def select(self, hidden: bool) -> ParameterGroup:
        """The hidden matrices of the group, or the other weights."""
        kept = [i for i, inside in enumerate(self.hidden) if inside == hidden]
        names, parameters = tuple(self.names[i] for i in kept), tuple(self.parameters[i] for i in kept)
        return ParameterGroup(self.role, self.lr, self.weight_decay, names, parameters, (hidden,) * len(kept))


def options_of_groups(groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    """The groups that have weights, as an optimizer of torch takes them."""
    return [group.options() for group in groups if group.parameters]
