"""The hooks of the chosen algorithm as an optimizer step calls them, and what they return looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.contract.hook_arguments import named_hook, place_of_attribute
from zoo.errors import PluginError, nearest
from zoo.models.roles import Models
from zoo.numbers import amount
from zoo.training.step.sums import Sums
from zoo.values.answers import answers_in
from zoo.values.records import ListedRecords, Records
from zoo.values.types import Batch, Loss


def prepared_records(found: Any, algorithm: Any) -> Records:
    """What `prepare` returned, as records. Raises PluginError where that is none of them, or nothing."""
    is_iterable = isinstance(found, Iterable) and not isinstance(found, str | Mapping)
    records = ListedRecords.of(found) if is_iterable else None
    if not records:
        what = "nothing to train on" if records is not None else f"{type(found).__name__}, which is no records"
        raise PluginError(f"{named_hook(algorithm, 'prepare')} returned {what}.", "Return the records to train on.")
    return records


def measurements(found: Any, algorithm: Any) -> Mapping[str, Any]:
    """What `measure` returned, where None is nothing. Raises PluginError for what is no mapping."""
    if found is not None and not isinstance(found, Mapping):
        raise PluginError(
            f"{named_hook(algorithm, 'measure')} returned {type(found).__name__}, not a dict.",
            "Return {name: (sum, count)}, or {name: sum}.",
        )
    return found or {}


def check_loss(loss: Any, part: Batch, learners: Collection[str], algorithm: Any) -> Loss:
    """What the hook `loss` of an algorithm returned for a micro-batch. learners: the roles that are trained.

    Raises PluginError for what is no Loss, for values and metrics that are not one for each example, and for roles in
    `trains` that are not trained.
    """
    name = named_hook(algorithm, "loss")
    if not isinstance(loss, Loss):
        raise PluginError(
            f"{name} returned {type(loss).__name__}, not a Loss.",
            "Return Loss.per_example(...), Loss.per_token(...) or Loss.weighted(...).",
        )
    lengths = (len(part), len(answers_in(part)))
    _check_length("values", loss.values, lengths, name)
    for metric, reported in loss.metrics.items():
        for values in reported if isinstance(reported, tuple) else (reported,):
            if isinstance(values, Tensor):
                _check_length(f"the metric '{metric}'", values, lengths, name)
    for role in loss.trains or ():
        if role not in learners:
            raise PluginError(
                f"{name} says that it trains '{role}', which is not trained.{nearest(role, learners)}",
                f"Trained are: {', '.join(learners)}.",
            )
    return loss


def _check_length(what: str, values: Tensor, lengths: tuple[int, int], name: str) -> None:
    """Raises PluginError for values that are as many as neither examples nor answers. lengths: how many these are."""
    if values.ndim and len(values) in lengths:
        return
    examples, answers = lengths
    returned = amount(len(values), "value") if values.ndim else "a single number"
    several = f" with {amount(answers, 'answer')}" if answers > examples else ""
    raise PluginError(
        f"{name} returned {returned} as {what}, and its micro-batch has {amount(examples, 'example')}{several}.",
        "Give one for each example: NaN is a missing metric, a weight of 0 in Loss.weighted leaves an example out of "
        "the loss, and number.expand(len(batch)) is one number for all.",
    )


class Hooks:
    """`loss` and `measure` of an algorithm.

    hook: the plugin manager's; config: the algorithm's own options; learners: the roles that are trained.
    """

    def __init__(self, hook: Any, algorithm: Any, models: Models, config: Any, learners: Collection[str]):
        self.hook, self.algorithm, self.models, self.config = hook, algorithm, models, config
        self.learners = learners

    def loss(self, part: Batch, step: int) -> Loss:
        """The loss of a micro-batch. Raises PluginError for what cannot be learned from."""
        found = self.hook.loss(batch=part, models=self.models, config=self.config, step=step)
        loss = check_loss(found, part, self.learners, self.algorithm)
        if torch.is_grad_enabled() and not loss.numerator.requires_grad:
            raise PluginError(
                f"{named_hook(self.algorithm, 'loss')} returned values that do not depend on the model.",
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

    def refuse_unused_roles(self, but: Collection[str]) -> None:
        """After the first step of a run: a role that nothing has touched costs memory and time for no result.

        but: roles whose turn comes in a later step.
        """
        if unused := [role for role in self.models.unused() if role not in but]:
            used = ", ".join(sorted(self.models.used)) or "no role"
            place = place_of_attribute(type(self.algorithm), "needs")
            raise PluginError(
                f"{place}: {type(self.algorithm).__name__} declares that it needs {', '.join(unused)}, but its first "
                f"step used {used} only.",
                f"Use models.{unused[0]}, or take it out of needs, which may be a function of the options."
                + self._turn(unused),
            )

    def _turn(self, unused: Collection[str]) -> str:
        """How a step says that the turn of a trained role is a later one; "" if none of the unused roles is trained."""
        later = [role for role in self.learners if role in unused]
        moved = ", ".join(f'"{role}"' for role in self.learners if role not in unused)
        if not later:
            return ""
        return f" If {later[0]} has its turn in a later step, let this one say what it moves: trains=({moved},)."
