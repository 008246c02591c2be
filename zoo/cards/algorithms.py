"""The card of an algorithm, and the stand-in class made from it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.cards.functions import function_in, function_out
from zoo.cards.values import Unwritable, copy_of, type_in, type_out, value_out
from zoo.contract.algorithm import Algorithm
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.options.fields import Option, options_of
from zoo.options.points import Point, is_points
from zoo.options.roles import Role

HOOKS = (*ALGORITHM_HOOKS, *LISTENER_HOOKS)


def describe(cls: type[Algorithm]) -> dict[str, Any] | None:
    """What a class declares, as JSON; None if a card cannot hold it."""
    try:
        return {
            "name": cls.__name__,
            "description": inspect.getdoc(cls) or "",
            "about": inspect.getdoc(inspect.getmodule(cls)) or "",
            "paper": value_out(cls.paper),
            "kinds": [value_out(kind) for kind in cls.kinds()],
            "head": value_out(cls.head),
            "defaults": _defaults(cls.defaults),
            "variants": {name: _defaults(options) for name, options in cls.variants.items()},
            "reasons": value_out(dict(cls.reasons)),
            "metrics": value_out(dict(cls.metrics)),
            "hooks": {
                hook: [*inspect.signature(getattr(cls, hook)).parameters] for hook in HOOKS if hasattr(cls, hook)
            },
            "needs": _needs(cls),
            "own_roles": {name: _role_out(role) for name, role in cls.own_roles.items()},
            "options": _options(cls.Config),
            "rules": _rules(cls.Config),
        }
    except Unwritable:
        return None


def stand_in(card: dict[str, Any], load: Callable[[], type[Algorithm]]) -> type[Algorithm]:
    """A class that declares what the card says. load: gives the real class, for what only that knows."""
    body: dict[str, Any] = {
        "__doc__": card["description"],
        "about_module": card["about"],
        "load_real": staticmethod(load),
        "data": card["kinds"][0] if len(card["kinds"]) == 1 else tuple(card["kinds"]),
        "needs": _needs_in(card["needs"], load),
        "own_roles": {name: Role(**facts) for name, facts in card["own_roles"].items()},
        "Config": _config(card, load),
        "defaults": _defaults_in(card["defaults"]),
        "variants": {name: _defaults_in(options) for name, options in card["variants"].items()},
        **{name: card[name] for name in ("paper", "head", "reasons", "metrics")},
        **{hook: _stub(card["name"], hook, arguments) for hook, arguments in card["hooks"].items()},
    }
    return type(card["name"], (Algorithm,), body)


def _stub(name: str, hook: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """A hook that says which arguments it would take."""

    def stub(self: Any, **given: Any) -> Any:
        raise AssertionError(f"{name} was made from its card, and has no {hook}")

    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    stub.__signature__ = inspect.Signature([inspect.Parameter(one, plain) for one in arguments])  # type: ignore[attr-defined]
    return stub


# -- defaults --------------------------------------------------------------------------------------------------------

POINTS = "points"


def _defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults as JSON; what depends on the model is `{"points": […]}`, which no option of the core can be."""
    return {
        name: {POINTS: [value_out(dataclasses.asdict(point)) for point in value]} if is_points(value)
        else value_out(value)
        for name, value in defaults.items()
    }  # fmt: skip


def _defaults_in(written: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [Point(**fields) for fields in value[POINTS]] if isinstance(value, dict) and POINTS in value else value
        for name, value in written.items()
    }


# -- needs -----------------------------------------------------------------------------------------------------------


def _needs(cls: type[Algorithm]) -> Any:
    if not callable(cls.needs):
        return list(cls.needs)
    own = {name for base in cls.__mro__ if base not in (Algorithm, object) for name in vars(base)} - {"needs"}
    return _written(cls.needs, own | _members(cls.Config))


def _role_out(role: Role) -> dict[str, Any]:
    """What a role of a plugin may set."""
    return {name: value_out(getattr(role, name)) for name in ("start", "ahead", "about")}


def _needs_in(written: Any, load: Callable[[], type[Algorithm]]) -> Any:
    if isinstance(written, list):
        return tuple(written)
    if written:
        return function_in(written)
    return lambda self, config: load()().roles(_real(config, load))


# -- options ---------------------------------------------------------------------------------------------------------


def _options(config: Any) -> list[dict[str, Any]]:
    if any(not field.init or field.kw_only for field in dataclasses.fields(config)) or "__new__" in vars(config):
        raise Unwritable("fields that are not given in order")
    facts = []
    for option in options_of(config):
        fact = {"name": option.name, "type": type_out(option.type), "help": option.help, "group": option.group}
        if option.default is not dataclasses.MISSING:
            fact["default"] = value_out(option.default)
        facts.append(fact)
    return facts


def _rules(config: Any) -> dict[str, Any] | None:
    """How to run `__post_init__` without the plugin; empty if it needs the plugin, None if there is none."""
    rules = getattr(config, "__post_init__", None)
    return None if rules is None else _written(rules, _members(config))


def _written(function: Any, forbidden: set[str]) -> dict[str, Any]:
    try:
        return function_out(function, forbidden)
    except (Unwritable, OSError, SyntaxError, RecursionError):
        return {}


def _members(config: Any) -> set[str]:
    """The members of a class of options other than its options."""
    fields = {field.name for field in dataclasses.fields(config)}
    return {name for base in config.__mro__[:-1] for name in vars(base) if not name.startswith("__")} - fields


def _config(card: dict[str, Any], load: Callable[[], type[Algorithm]]) -> type:
    options = [
        Option(fact["name"], type_in(fact["type"]), fact.get("default", dataclasses.MISSING), fact["help"],
               fact["group"])
        for fact in card["options"]
    ]  # fmt: skip
    body: dict[str, Any] = {"__options__": options, "__doc__": "Options."}
    if card["rules"] is not None:
        body["__post_init__"] = function_in(card["rules"]) if card["rules"] else lambda self: _real(self, load)
    return dataclasses.make_dataclass(
        "Config", [(option.name, option.type, _field(option)) for option in options], namespace=body
    )


def _field(option: Option) -> Any:
    if option.default is dataclasses.MISSING:
        return dataclasses.field()
    if isinstance(option.default, list | dict):
        return dataclasses.field(default_factory=copy_of(option.default))
    return dataclasses.field(default=option.default)


def _real(config: Any, load: Callable[[], type[Algorithm]]) -> Any:
    """The options as an instance of the plugin's own class, checked by its rules."""
    return load().Config(**vars(config))
