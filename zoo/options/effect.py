"""Options that were given and have no effect, because they belong to something that the run has not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import NamedTuple

from zoo.options.config import BY_HAND, Resolved, TrainConfig, is_default
from zoo.options.roles import role_options
from zoo.options.spelling import name_in

ADAPTERS = tuple(field.name for field in fields(TrainConfig) if field.name.startswith("lora_")) + ("train_modules",)
CHOICE = ("best_metric", "best_mode")
SAMPLING = ("answers_per_prompt", "max_new_tokens", "token_budget", "temperature", "top_k", "top_p", "stop")


class Need(NamedTuple):
    """Options, whether a run has what they belong to, and what to say where it has not."""

    options: Sequence[str]
    is_met: Callable[[TrainConfig], bool]
    why: str


SHAPE = ("lora_rank", "lora_alpha", "lora_kind", "lora_targets", "train_modules")
NEEDS = (
    Need(ADAPTERS, lambda core: core.lora, "without --lora all weights are trained"),
    Need(
        SHAPE, lambda core: not (core.lora and core.lora_continue),
        "adapters that go on keep the shape and the modules that they were made with",
    ),
    Need(
        ("checkpoint_layers",), lambda core: core.gradient_checkpointing,
        "without --gradient-checkpointing nothing is recomputed",
    ),
    Need(("decay_mix",), lambda core: core.decay_data is not None, "there is no --decay-data"),
    # The decay phase mixes its data with the rest.
    Need(("mix_by",), lambda core: bool({"*", "+"} & {*core.data}) or core.decay_data is not None,
         "the data is no mixture"),
    Need(
        ("lr_floor",), lambda core: name_in(core.schedule) != "constant", "the schedule constant keeps the rate"
    ),
    Need(
        ("max_turns", "environment_timeout"), lambda core: core.environment is not None,
        "without --environment an answer is one turn",
    ),
    Need(("token_budget",), lambda core: core.environment is None, "an episode ends by its turns and --max-new-tokens"),
    Need(
        CHOICE, lambda core: core.keep_best or core.keep_top > 0 or core.patience is not None,
        "nothing is chosen by it without --keep-best, --keep-top or --patience",
    ),
)  # fmt: skip


def without_effect(
    resolved: Resolved, roles: Sequence[str], writes: bool, device: str | None = None
) -> list[tuple[str, str]]:
    """The options that have no effect, each with the reason.

    writes: the policy may write answers in this run; device: its type, None where it is not known.
    """
    return [*_of_roles(resolved, roles), *_of_needs(resolved, writes, device)]


def _of_roles(resolved: Resolved, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, role in role_options(resolved.roles):
        # An option that always has a value is given if somebody typed it.
        is_given = resolved.value(name) is not None and (
            getattr(TrainConfig, name, None) is None or resolved.typed(name)
        )
        if is_given and role not in roles:
            yield name, f"{resolved.algo} with these options has no {role}"


def _of_needs(resolved: Resolved, writes: bool, device: str | None) -> Iterator[tuple[str, str]]:
    answers = Need(SAMPLING, lambda core: writes, f"{resolved.algo} writes no answers")
    memory = Need(("offload",), lambda core: device != "cpu", "on a CPU everything is in the CPU's memory already")
    for need in (*NEEDS, answers, memory):
        if not need.is_met(resolved.core):
            yield from ((name, need.why) for name in need.options if _is_given(resolved, name))


def _is_given(resolved: Resolved, name: str) -> bool:
    """Whether somebody typed an option, or wrote into a file what is not the default."""
    origin = resolved.origin[name]
    differs = getattr(resolved.core, name) != getattr(TrainConfig, name)
    return origin in BY_HAND or (differs and not is_default(origin))
