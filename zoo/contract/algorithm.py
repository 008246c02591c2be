"""The base class of every algorithm: what it declares, and which of its methods are hooks.

An algorithm states its paper, the kind of data it learns from, the model roles it needs, its options and its
metrics, and implements `loss` (and, if it wants, `prepare`, `collate`, `measure`; and `rollout` where it learns from
answers that its policy writes). Everything else is the core's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

from zoo.contract.hook_arguments import check_arguments, file_of, place_of
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.errors import PluginError, nearest

ROLES = ("policy", "reference", "critic", "judge")
DATA_KINDS = ("demonstration", "preference", "feedback", "prompt", "ranking", "stepwise", "text")


class Algorithm:
    """Subclass this, declare, implement `loss`. The class docstring's first line is the algorithm's description."""

    api_version: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    data: ClassVar[str | tuple[str, ...]] = ""
    """The kind of data it learns from; of several kinds the one that the data is of, else the first."""
    needs: Any = ("policy",)
    """Roles used; a tuple, or a function of the options (`def needs(self, config)`)."""
    head: ClassVar[str] = "lm"
    """"lm" for a language model, "scalar" for a scorer."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Core options that the paper sets otherwise: `{"lr": 5e-7}`."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Presets for `--variant`, by the name their paper has: `{"cautious": {"beta": 0.5}}`, own and core options."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """One sentence for each metric that `loss` reports."""
    measured: ClassVar[tuple[str, ...]] = ()
    """Fields of a batch that `measure` alone reads: micro-batches are as large as without them."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that a resume must bring back."""
    conformance: ClassVar[Mapping[str, Any]] = {}
    """What `zoo check` should know besides: worked numbers, first values, exceptions with their reason."""

    @dataclass
    class Config:
        """No options."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The kinds of data it learns from, the preferred one first."""
        return (cls.data,) if isinstance(cls.data, str) else tuple(cls.data)

    def roles(self, config: Any) -> tuple[str, ...]:
        """The roles this configuration needs."""
        return tuple(self.needs(config) if callable(self.needs) else self.needs)

    @classmethod
    def online(cls) -> bool:
        """Whether it learns from answers that its policy writes during the run."""
        return hasattr(cls, "rollout")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this algorithm."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in self.saved:
            setattr(self, name, state[name])


def validate(cls: Any, name: str) -> type[Algorithm]:
    """Refuse a class that cannot work, with the reason; returns the class."""

    def refuse(why: str) -> PluginError:
        return PluginError(f"Algorithm '{name}' ({file_of(cls)}): {why}")

    if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
        raise refuse(f"{cls!r} is not a subclass of zoo.api.Algorithm.")
    if cls.api_version != Algorithm.api_version:
        raise refuse(f"it is written for plugin API {cls.api_version}, this is {Algorithm.api_version}.")
    for kind in cls.kinds() or ("",):
        if kind not in DATA_KINDS:
            raise refuse(f"data = {cls.data!r} is not one of {', '.join(DATA_KINDS)}.{nearest(kind, DATA_KINDS)}")
    if cls.online() and cls.kinds() != ("prompt",):
        raise refuse(f'it has a hook `rollout`, which takes prompts, and data = {cls.data!r}: write data = "prompt".')
    if not is_dataclass(cls.Config):
        raise refuse("its Config is not a dataclass: put @dataclass above it.")
    if not callable(getattr(cls, "loss", None)):
        raise refuse("it has no method `loss`.")
    if not callable(cls.needs):
        for role in cls.needs:
            if role not in ROLES:
                raise refuse(f"needs names an unknown role '{role}'.{nearest(role, ROLES)}")
    hooks = (*ALGORITHM_HOOKS, *LISTENER_HOOKS)
    known = {*hooks, *dir(Algorithm)}
    for method in vars(cls):
        if method.startswith("_") or method in known or not callable(getattr(cls, method)):
            continue
        if guess := nearest(method, hooks):
            where = place_of(getattr(cls, method))
            raise refuse(f"its method `{method}` is no hook.{guess} ({where}. Helpers start with an underscore.)")
    for hook in hooks:
        if function := getattr(cls, hook, None):
            is_method = inspect.isfunction(inspect.getattr_static(cls, hook))
            check_arguments(function, hook, f"{cls.__name__}.{hook}", skip_first=is_method)
    return cls
