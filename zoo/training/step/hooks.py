"""The hooks of the chosen algorithm as an optimizer step calls them, and what they return looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from zoo.errors import PluginError
from zoo.models.roles import Models
from zoo.training.step.sums import Sums
from zoo.values.types import Batch, Loss


def measurements(found: Any, algorithm: Any) -> Mapping[str, Any]:
    """What `measure` returned, where None is nothing. Raises PluginError for what is no mapping."""
    if found is not None and not isinstance(found, Mapping):
        raise PluginError(
            f"{type(algorithm).__name__}.measure returned {type(found).__name__}, not a dict.",
            "Return {name: (sum, count)}, or {name: sum}.",
        )
    return found or {}


class Hooks:
    """`loss` and `measure` of an algorithm. hook: the plugin manager's; config: the algorithm's own options."""

    def __init__(self, hook: Any, algorithm: Any, models: Models, config: Any):
        self.hook, self.algorithm, self.models, self.config = hook, algorithm, models, config

    def loss(self, part: Batch, step: int) -> Loss:
        """The loss of a micro-batch. Raises PluginError for what cannot be learned from."""
        loss = self.hook.loss(batch=part, models=self.models, config=self.config, step=step)
        if not isinstance(loss, Loss):
            raise PluginError(
                f"{type(self.algorithm).__name__}.loss returned {type(loss).__name__}, not a Loss.",
                "Return Loss.per_example(...), Loss.per_token(...) or Loss.weighted(...).",
            )
        if torch.is_grad_enabled() and not loss.numerator.requires_grad:
            raise PluginError(
                f"{type(self.algorithm).__name__}.loss returned values that do not depend on the model.",
                "Compute them from what models.policy gives, without detach() and outside of torch.no_grad().",
            )
        return loss

    @torch.no_grad()
    def measure(self, parts: list[Batch], device: torch.device) -> None:
        """Fill `measured` of every micro-batch with what the algorithm measures over the whole step."""
        if not self.hook.measure.get_hookimpls():
            return
        sums, totals = Sums(), Sums()
        for part in parts:
            found = measurements(self.hook.measure(batch=part, models=self.models, config=self.config), self.algorithm)
            pairs = {name: value for name, value in found.items() if isinstance(value, tuple)}
            sums.add({name: (torch.as_tensor(a), torch.as_tensor(b)) for name, (a, b) in pairs.items()})
            plain = {name: torch.as_tensor(found[name]) for name in found.keys() - pairs.keys()}
            totals.add({name: (value, torch.zeros(())) for name, value in plain.items()})
        sums, totals = sums.reduced(device), totals.reduced(device)
        means = sums.means()
        measured = {name: means.get(name, 0.0) for name in sums.names} | {n: totals.total(n) for n in totals.names}
        for part in parts:
            part.measured = {
                name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in measured.items()
            }

    def refuse_unused_roles(self) -> None:
        """After the first step of a run: a role that nothing has touched costs memory and time for no result."""
        if unused := self.models.unused():
            used = ", ".join(sorted(self.models.used)) or "no role"
            raise PluginError(
                f"{type(self.algorithm).__name__} declares that it needs {', '.join(unused)}, but its first step used "
                f"{used} only.",
                f"Use models.{unused[0]}, or take it out of needs, which may be a function of the options.",
            )
