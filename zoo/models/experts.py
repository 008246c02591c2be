"""Routers of a mixture of experts in training: their auxiliary loss, and how evenly they load the experts.

The auxiliary loss of a text is that of transformers for a forward pass over this text alone (Switch Transformer,
arXiv:2101.03961, equations 4 to 6): E·Σ_e f_e·P_e over the experts e of all layers together, f_e the share of tokens
that chose e, P_e its mean probability. It is never taken over a micro-batch, so a step's result does not depend on how
it was cut: a text's auxiliary loss counts as much as the text's own terms in the loss of the step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.experts import (
    Routing,
    auxiliary_coefficient,
    listen,
    own_auxiliary_loss,
    routers,
)
from zoo.libraries.wrappers import base_of
from zoo.models.layout import Rows, arrange
from zoo.processes import gathered
from zoo.values.types import Answer

Say = Callable[[str], None]
PROBE = 16
"""Tokens of the text on which the formula is compared with the model's own."""


class Texts(NamedTuple):
    """Texts that were scored in a pass, and the auxiliary loss of each, [B]."""

    answers: list[Answer]
    losses: Tensor


_WATCHED: WeakKeyDictionary[torch.nn.Module, Balance] = WeakKeyDictionary()


class Balance:
    """What the routers of a model do in its passes with a gradient, between `open` and `close`.

    coefficient: of the auxiliary loss, 0 for none.
    """

    def __init__(self, model: Any, coefficient: float):
        self.coefficient = coefficient
        self.texts: list[Texts] = []
        self.loads: Tensor | None = None
        """How often each expert of each layer was chosen in this step, float64 [layers, experts]."""
        self._base = base_of(model)
        self._layers: dict[int, Routing] | None = None
        self._hooks: list[Any] = []

    def open(self) -> Balance:
        """Hear the routers from now on."""
        self._hooks = listen(self._base, self._heard)
        _WATCHED[self._base] = self
        return self

    def _heard(self, number: int, routing: Routing) -> None:
        if self._layers is not None:
            self._layers[number] = routing

    @contextlib.contextmanager
    def during(self, rows: Rows) -> Iterator[None]:
        """A forward pass over these rows."""
        self._layers = {}
        try:
            yield
            layers = [self._layers[number] for number in sorted(self._layers)]
        finally:
            self._layers = None
        if layers:
            losses, loads = balance_of_texts(rows, layers)
            self.texts.append(Texts(rows.answers, losses))
            self.loads = loads if self.loads is None else self.loads + loads

    def close(self) -> None:
        """Hear no more."""
        for hook in self._hooks:
            hook.remove()
        _WATCHED.pop(self._base, None)

    def forget(self) -> None:
        """Begin a step again."""
        self.texts, self.loads = [], None

    def numerator(self, weights: Mapping[int, float]) -> Tensor | float:
        """Σ w·loss over the texts since the last call. weights: of each answer in the step's loss, by its identity.

        Texts that are none of these answers have equal parts of the weights of all.
        """
        texts, self.texts = self.texts, []
        pairs = [(id(answer), loss) for part in texts for answer, loss in zip(part.answers, part.losses, strict=True)]
        known = [(name, loss) for name, loss in pairs if name in weights]
        if not known:
            return sum(loss for _, loss in pairs) * (sum(weights.values()) / len(pairs)) if pairs else 0.0
        times = {name: sum(1 for other, _ in known if other == name) for name, _ in known}
        return sum(loss * (weights[name] / times[name]) for name, loss in known)

    def take_metrics(self) -> dict[str, float]:
        """How evenly the experts were loaded in this step, over all processes."""
        loads, self.loads = self.loads, None
        shares = [one for one in gathered(None if loads is None else loads.tolist()) if one is not None]
        if not shares:
            return {}
        total = torch.tensor(shares, dtype=torch.float64).sum(0)
        share = total / total.sum(-1, keepdim=True)
        entropy = -(share * share.clamp(min=1e-300).log()).sum(-1) / math.log(share.shape[-1])
        return {"router/load_entropy": float(entropy.mean()), "router/busiest_share": float(share.max())}


def watched(model: Any, rows: Rows) -> contextlib.AbstractContextManager[None]:
    """For a forward pass: with a gradient, the routers of a model that is trained are heard."""
    balance = _WATCHED.get(base_of(model)) if _WATCHED and torch.is_grad_enabled() else None
    return contextlib.nullcontext() if balance is None else balance.during(rows)


def balance_of_texts(rows: Rows, layers: list[Routing]) -> tuple[Tensor, Tensor]:
    """The auxiliary loss of each of B texts, [B], and the loads of the experts, [layers, experts].

    A token that several texts share counts for each of them, as it does where each has a row of its own.
    """
    device = rows.home.device
    sizes = torch.tensor([len(answer) for answer in rows.answers], device=device)
    place = rows.home[:, None] * rows.ids.shape[1] + rows.place
    valid = torch.arange(place.shape[1], device=device) < sizes[:, None]
    zero = torch.zeros(len(sizes), layers[0].logits.shape[-1], device=device)
    chosen_sum, probability_sum, loads = zero, zero, []
    for logits, chosen in layers:
        probabilities = logits.float().softmax(-1)
        likeliest = probabilities.topk(chosen.shape[-1], -1).indices
        probability_sum = probability_sum + (probabilities[place] * valid[..., None]).sum(1)
        chosen_sum = chosen_sum + _counts(likeliest[place], valid, logits.shape[-1])
        loads.append(_counts(chosen[place], valid, logits.shape[-1]).sum(0).double())
    tokens = (sizes * len(layers)).clamp(min=1)[:, None]
    losses = logits.shape[-1] * (chosen_sum / tokens * (probability_sum / tokens)).sum(-1)
    return losses, torch.stack(loads)


def _counts(chosen: Tensor, valid: Tensor, experts: int) -> Tensor:
    """How many of the valid tokens of each text chose each expert; chosen [B, W, k], valid [B, W] → [B, E]."""
    ones = valid[..., None].expand_as(chosen).float()
    counts = torch.zeros(len(chosen), experts, device=chosen.device)
    return counts.scatter_add_(1, chosen.flatten(1), ones.flatten(1))


def watch(model: Any, wanted: float | None, frozen: bool, say: Say) -> Balance | None:
    """Hear the routers of the model that is trained; None if it has none.

    wanted: the coefficient of the auxiliary loss, None for the model's own, or 0 if the routers are frozen. Raises
    ZooError for a coefficient where the model has no such loss.
    """
    there = routers(model)
    own = auxiliary_coefficient(model)
    if why := _lacks(model) or _difference(model):
        if wanted:
            raise _no_loss(model, wanted, why)
        if there:
            say(f"Mixture of experts: {len(there)} routers; no auxiliary loss is added, because the model {why}.")
        return Balance(model, 0.0) if there else None
    coefficient = (0.0 if frozen else own) if wanted is None else wanted
    origin = "the model's own" if wanted is None and not frozen else "frozen routers" if wanted is None else "given"
    say(
        f"Mixture of experts: the auxiliary loss of {len(there)} routers is added with the coefficient "
        f"{coefficient:g} ({origin}; --router-aux-loss sets it)."
    )
    return Balance(model, coefficient or 0.0)


def refuse_coefficient(model: Any, wanted: float | None) -> None:
    """Raises ZooError for a coefficient where nothing in the model has such a loss. Its weights do not matter."""
    if wanted and (why := _lacks(model)):
        raise _no_loss(model, wanted, why)


def _lacks(model: Any) -> str:
    if not routers(model):
        return "has no routers"
    return "has no auxiliary loss" if auxiliary_coefficient(model) is None else ""


def _no_loss(model: Any, wanted: float, why: str) -> ZooError:
    return ZooError(f"--router-aux-loss {wanted:g}: {type(base_of(model)).__name__} {why}.", "Leave it out.")


def _difference(model: Any) -> str:
    """Why the formula is not the model's own; empty if it is."""
    device = next(model.parameters()).device
    ids = torch.arange(PROBE, device=device) % model.get_input_embeddings().weight.shape[0]
    heard: dict[int, Routing] = {}
    hooks = listen(model, heard.__setitem__)
    try:
        own = own_auxiliary_loss(model, ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    if own is None or not heard:
        return "gives no auxiliary loss"
    answer = Answer(ids[:1], ids[1:], torch.ones(PROBE - 1, dtype=torch.bool, device=device))
    layers = [Routing(one.logits.cpu(), one.chosen.cpu()) for _, one in sorted(heard.items())]
    found = float(balance_of_texts(arrange([answer], "padded"), layers)[0])
    return (
        ""
        if abs(found - own) <= 1e-2 * abs(own)
        else f"computes it in another way ({own:.4g} for a text that has {found:.4g} here)"
    )


def freeze_routers(model: Any) -> None:
    """Train no router, nor an adapter on one. Raises ZooError for a model without routers."""
    there = routers(model)
    if not there:
        raise ZooError(f"--freeze-routers: {type(base_of(model)).__name__} has no routers.", "Leave it out.")
    for router in there:
        router.module.requires_grad_(False)
