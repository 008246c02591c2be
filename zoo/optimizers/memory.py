"""Bytes that an optimizer holds for a weight: measured on a few small weights, so that a plugin need not say them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.cards import kept
from zoo.errors import ZooError
from zoo.libraries.releases import installed
from zoo.optimizers import ParameterGroup
from zoo.optimizers.chosen import Chosen

SIDE = 256
"""Of the matrices that are measured: large enough for states of 8 bits, which small weights do not get."""
COUNTS = (2, 6)
"""Matrices; what more of them cost in a step tells what an optimizer makes for all weights, and what for one."""


@dataclass(frozen=True)
class StateBytes:
    """Bytes a weight: of the state of matrices inside the network and of other weights, and what a step makes besides.

    step: for every weight at once; largest: for the weights of one tensor at a time.
    """

    matrices: float = 8.0
    others: float = 8.0
    step: float = 0.0
    largest: float = 0.0

    def of(self, matrices: float, others: float) -> float:
        """The state of so many weights."""
        return self.matrices * matrices + self.others * others


def state_bytes(optimizer: Chosen) -> StateBytes:
    """What an optimizer holds; as AdamW where it cannot be made here, such as without a GPU."""
    place = [optimizer.name, repr(optimizer.options), f"torch {installed('torch')}"]
    card = kept.read("optimizer", place)
    if card is None:
        try:
            card = asdict(_measured(optimizer))
        except ZooError:
            return StateBytes()
        kept.write("optimizer", place, card, [*kept.files_behind(optimizer.function), __file__])
    return StateBytes(**card)


def _measured(optimizer: Chosen) -> StateBytes:
    few, many = (_stepped(optimizer, count) for count in COUNTS)
    size = SIDE * SIDE
    for_all = max(0.0, (many[2] - few[2]) / (COUNTS[1] - COUNTS[0]) / size)
    return StateBytes(few[0], few[1], for_all, max(0.0, few[2] / size - for_all * (COUNTS[0] + 1)))


def _stepped(optimizer: Chosen, count: int) -> tuple[float, float, float]:
    """Bytes a weight of matrices and of an embedding, and the bytes of what a step makes; count: of matrices."""
    import torch

    from zoo.libraries.tracing import Live

    weights = [torch.nn.Parameter(torch.ones(SIDE, SIDE)) for _ in range(count + 1)]
    made = optimizer([_group(weights[:-1], True), _group(weights[-1:], False)])
    for weight in weights:
        weight.grad = torch.eye(SIDE)
    made.step()
    states = [value for weight in weights for value in made.state[weight].values() if isinstance(value, torch.Tensor)]
    # What is there already, which a step changes in place, is no memory of the step.
    live = Live([*weights, *(weight.grad for weight in weights if weight.grad is not None), *states])
    with live:
        made.step()
    held = [_bytes(made.state[weight]) / weight.numel() for weight in (weights[0], weights[-1])]
    return held[0], held[1], live.peak


def _group(weights: Sequence[Any], hidden: bool) -> ParameterGroup:
    names = tuple(f"weight{number}" for number in range(len(weights)))
    return ParameterGroup("policy", 1e-3, 0.0, names, tuple(weights), (hidden,) * len(weights))


def _bytes(state: dict[str, Any]) -> int:
    """Of the tensors of one weight; a single number, such as a step, is none of its size."""
    tensors = [value for value in state.values() if hasattr(value, "numel") and value.numel() > 1]
    return sum(value.numel() * value.element_size() for value in tensors)
