"""Several optimizers that look like one: to Lightning, to schedules and to checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Joint(torch.optim.Optimizer):
    """The groups of its parts in their order, one state for all of them, and a step of each part.

    The parts keep no group or state of their own: those of the whole are theirs, also after a checkpoint was loaded.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = [part for part in parts if part.param_groups]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Give the parts the groups and the state of the whole."""
        begin = 0
        for part in self.parts:
            end = begin + len(part.param_groups)
            part.param_groups, begin = self.param_groups[begin:end], end
            part.state = self.state


def parts_of(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that a joint one consists of; another one alone."""
    return optimizer.parts if isinstance(optimizer, Joint) else [optimizer]
