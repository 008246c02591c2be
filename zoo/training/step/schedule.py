"""Learning rates by step, and the trained weights in groups for the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from zoo.errors import PluginError, ZooError
from zoo.libraries.adapters import is_outer
from zoo.libraries.wrappers import is_adapted
from zoo.optimizers import ParameterGroup
from zoo.optimizers.chosen import Chosen
from zoo.options.config import TrainConfig

HEAD_LR = 5.0
"""The default learning rate of a critic's head, as a multiple of the policy's: the head starts at zero."""


def lr_factor(schedule: Chosen, total: int, warmup: float, floor: float) -> Callable[[int], float]:
    """The learning rate of step s (from 0) as a share of its peak.

    Linear warmup over `warmup` steps (below 1: a share of `total`), then the schedule between 1 and floor.
    """
    warm = round(warmup * total) if warmup < 1 else int(warmup)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return floor + (1 - floor) * _checked(schedule.name, step, schedule(step, total, warm))

    return factor


def _checked(name: str, step: int, share: float) -> float:
    """Raises PluginError for a share of the rate that is no number from 0 on."""
    if not isinstance(share, int | float) or not 0 <= share < math.inf:
        raise PluginError(f"The schedule '{name}' gives {share!r} for step {step}: a number from 0 on is needed.")
    return share


def make_optimizer(optimizer: Chosen, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
    """The optimizer of a run. Raises PluginError unless it has each weight of the groups once, with a rate."""
    try:
        made = optimizer(groups)
    except ValueError as error:
        hint = f"`zoo optimizers {optimizer.name}` shows its options."
        raise ZooError(f"The optimizer '{optimizer.name}' cannot be used: {error}.", hint) from None
    if not isinstance(made, torch.optim.Optimizer):
        raise PluginError(f"The optimizer '{optimizer.name}' is {type(made).__name__}, no torch.optim.Optimizer.")
    _check_weights(optimizer.name, made, groups)
    return made


def _check_weights(name: str, made: torch.optim.Optimizer, groups: Sequence[ParameterGroup]) -> None:
    names = {id(p): f"{g.role}.{name}" for g in groups for name, p in zip(g.names, g.parameters, strict=True)}
    held = [id(p) for group in made.param_groups for p in group["params"]]
    missing = [name for weight, name in names.items() if weight not in held]
    wrong = f"lacks {missing[0]}" if missing else "has a weight twice, or one that is not trained"
    if missing or len(held) != len(names) or not set(held) <= set(names):
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise PluginError(f"The optimizer '{name}' {wrong}{more}.", "Take all parameters of all groups, each once.")


def parameter_groups(learners: Mapping[str, torch.nn.Module], core: TrainConfig) -> list[ParameterGroup]:
    """The trained weights by role; matrices decay, and a critic has its own learning rate. No group is empty.

    With `--lora-plus`, matrices B of adapters, and vectors beside them, have a rate of their own (LoRA+,
    arXiv:2402.12354).
    """
    groups = []
    critic_lr = core.lr * (HEAD_LR if core.critic == "head" else 1.0) if core.critic_lr is None else core.critic_lr
    for role, model in learners.items():
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        inside, lr = set(_hidden(model)), critic_lr if role == "critic" else core.lr
        matrices, plain = ([(name, p) for name, p in trained if (p.ndim >= 2) == wanted] for wanted in (True, False))
        faster = {name for name, _ in matrices if core.lora_plus != 1 and is_outer(name)}
        rest, outer = ([(name, p) for name, p in matrices if (name in faster) == wanted] for wanted in (False, True))
        fast = lr * core.lora_plus
        groups += [_group(role, lr, core.weight_decay, rest, inside)]
        groups += [_group(role, fast if is_adapted(model) else lr, 0.0, plain, inside)]
        groups += [_group(role, fast, core.weight_decay, outer, inside)]
    return [group for group in groups if group.parameters]


def _group(
    role: str, lr: float, weight_decay: float, named: Sequence[tuple[str, torch.nn.Parameter]], inside: set[int]
) -> ParameterGroup:
    names, parameters = tuple(name for name, _ in named), tuple(p for _, p in named)
    return ParameterGroup(role, lr, weight_decay, names, parameters, tuple(id(p) in inside for p in parameters))


def _hidden(model: torch.nn.Module) -> Iterator[int]:
    """The identities of the matrices inside a network: not those of embeddings, of its head, and of a single row."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    ends = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head]
    outside = {id(p) for module in ends for p in module.parameters()}
    for parameter in model.parameters():
        if parameter.ndim == 2 and min(parameter.shape) > 1 and id(parameter) not in outside:
            yield id(parameter)
