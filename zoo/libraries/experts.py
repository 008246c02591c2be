"""Mixtures of experts: the weights of the experts, the routers, and what routers decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.libraries.architecture import backbone, evaluating, text_config
from zoo.libraries.reliance import relies_on
from zoo.libraries.tiny import IDS, make_tiny
from zoo.libraries.wrappers import base_of

EXPERTS = "experts"
"""What the module of the experts is called in every architecture."""


class Routing(NamedTuple):
    """What a router decided for N tokens. logits [N, E], with gradient; chosen int64 [N, k]: the experts it took."""

    logits: Tensor
    chosen: Tensor


class Router(NamedTuple):
    """A router of a model beside its experts. size: how many they are."""

    name: str
    module: Any
    experts: Any
    size: int


def expert_weights(model: Any) -> list[str]:
    """Names of the weights that hold all experts of a layer in one tensor, [experts, …, …]."""
    return [
        name for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and "expert" in name.rpartition(".")[0].lower()
    ]  # fmt: skip


def routers(model: Any) -> list[Router]:
    """The routers of a model, in the order of its layers: what stands beside `experts` and has an output for each."""
    found = []
    for name, block in base_of(model).named_modules():
        children = dict(block.named_children())
        count = _experts_in(children.get(EXPERTS))
        for child, module in children.items() if count else ():
            if child != EXPERTS and any(p.dim() == 2 and len(p) == count for p in module.parameters()):
                found.append(Router(f"{name}.{child}", module, children[EXPERTS], count))
    return found


def _experts_in(module: Any) -> int:
    """How many experts a module has; 0 for one that is none of experts."""
    if isinstance(module, torch.nn.ModuleList):
        return len(module)
    weights = [] if module is None else [p for p in module.parameters() if p.dim() == 3]
    return len(weights[0]) if weights else 0


def auxiliary_coefficient(model: Any) -> float | None:
    """What the model multiplies its routers' auxiliary loss by; None for a model that has none."""
    base = base_of(model)
    found = getattr(base, "router_aux_loss_coef", getattr(text_config(base), "router_aux_loss_coef", None))
    return None if found is None else float(found)


def own_auxiliary_loss(model: Any, ids: Tensor) -> float | None:
    """The auxiliary loss that the model computes for one text [1, L]; None where it gives none."""
    with evaluating(model), torch.no_grad():
        try:
            found = getattr(base_of(model)(input_ids=ids, output_router_logits=True, use_cache=False), "aux_loss", None)
        except TypeError:
            return None
    return float(found) if isinstance(found, Tensor) else None


def listen(model: Any, heard: Callable[[int, Routing], None]) -> list[Any]:
    """Call `heard` with the number of a router and what it decided, in every forward pass; returns hooks to remove."""
    index = _place_of_logits(model)
    hooks = []
    for number, router in enumerate(routers(model)):
        given: list[Tensor] = []

        def note_logits(
            module: Any, args: Any, output: Any, kept: list[Tensor] = given, router: Router = router
        ) -> None:
            parts = [output] if isinstance(output, Tensor) else list(output)
            fits = [
                part
                for part in parts
                if isinstance(part, Tensor) and part.is_floating_point() and part.shape[-1] == router.size
            ]
            at = parts[index] if index < len(parts) else None
            logits = at if any(at is part for part in fits) else fits[0] if fits else None
            kept[:] = [] if logits is None else [logits.reshape(-1, router.size)]

        def note_choice(module: Any, args: Any, kept: list[Tensor] = given, number: int = number) -> None:
            indices = [one for one in args if isinstance(one, Tensor) and not one.is_floating_point()]
            if kept and indices:
                heard(number, Routing(kept[0], indices[0].reshape(len(kept[0]), -1)))
            kept.clear()

        hooks.append(router.module.register_forward_hook(note_logits))
        hooks.append(router.experts.register_forward_pre_hook(note_choice))
    return hooks


def _place_of_logits(model: Any) -> int:
    """The place of the logits among a router's outputs."""
    recorded = getattr(backbone(model), "_can_record_outputs", None) or {}
    return int(getattr(recorded.get("router_logits"), "index", 0) or 0)


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "Routers stand beside `experts`, give their logits, and the experts get the ids they chose.",
           everywhere=False)  # fmt: skip
def routers_can_be_heard() -> None:
    model = make_tiny("Mixtral", num_local_experts=4, num_experts_per_tok=2)
    heard: list[Routing] = []
    hooks = listen(model, lambda number, routing: heard.append(routing))
    with torch.no_grad():
        model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    shapes = [(tuple(one.logits.shape), tuple(one.chosen.shape)) for one in heard]
    assert shapes == [((8, 4), (8, 2))] * 2, f"logits and choices of shapes {shapes}"
    likeliest = torch.stack([one.logits.topk(2).indices for one in heard])
    assert torch.equal(likeliest, torch.stack([one.chosen for one in heard])), "others than the likeliest were chosen"
