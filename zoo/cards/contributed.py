"""Functions that plugins contribute by name, with their options: known from cards, where importing them takes torch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from zoo.cards import kept
from zoo.cards.values import Unwritable, type_in, type_out, value_out
from zoo.contract import registry

Facts = dict[str, Any]


def contributed(
    hook: str, function_of: Callable[[Any], Any], facts_of: Callable[[Any], Facts], make: Callable[[Facts, Any], Any]
) -> dict[str, Any]:
    """What all plugins contribute under a hook; from a card, where there is one, with functions that cannot be called.

    function_of: the function in a contribution, whose parameters are its options; facts_of: the rest of it, as JSON;
    make: a contribution from its facts and a function with the same parameters.
    """
    modules = dict(registry.plugin_modules()[0])
    place = sorted(f"{name} {getattr(module, '__file__', '')}" for name, module in modules.items())
    whole = all(getattr(module, "__file__", None) for module in modules.values()) and not registry.plugin_modules()[1]
    if whole and (card := kept.read(hook, place)) is not None:
        return {name: make(one["facts"], _function_in(one["function"])) for name, one in card.items()}
    found = registry.contributions(registry.manager(), hook)
    if whole:
        with contextlib.suppress(Unwritable):
            card = {
                name: {"facts": facts_of(one), "function": _function_out(function_of(one))}
                for name, one in found.items()
            }
            files = {file for module in modules.values() for file in kept.files_of(module)}
            files |= set(kept.files_behind(*(function_of(one) for one in found.values())))
            kept.write(hook, place, card, sorted(files))
    return found


def _function_out(function: Any) -> Facts:
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    parameters = inspect.signature(function).parameters.values()
    return {"about": inspect.getdoc(function) or "", "parameters": [_parameter_out(one, hints) for one in parameters]}


def _parameter_out(one: inspect.Parameter, hints: Facts) -> Facts:
    given = {} if one.default is one.empty else {"default": value_out(one.default)}
    shown = "" if one.annotation is one.empty else one.annotation
    shown = shown if isinstance(shown, str) else getattr(shown, "__name__", str(shown))
    return {"name": one.name, "kind": int(one.kind), "shown": shown, "type": _type(hints, one.name), **given}


def _type(hints: Facts, name: str) -> Any:
    """The type of a parameter; text, which anything is at first, where it is another than options have."""
    try:
        return type_out(hints.get(name, str))
    except Unwritable:
        return "str"


def _function_in(card: Facts) -> Callable[..., Any]:
    def function(*given: Any, **options: Any) -> Any:
        raise AssertionError("made from a card, to be looked at only")

    function.__doc__ = card["about"]
    function.__signature__ = inspect.Signature(list(map(_parameter_in, card["parameters"])))  # type: ignore[attr-defined]
    function.__annotations__ = {one["name"]: type_in(one["type"]) for one in card["parameters"]}
    return function


def _parameter_in(one: Facts) -> inspect.Parameter:
    kind = next(kind for kind in inspect._ParameterKind if int(kind) == one["kind"])
    return inspect.Parameter(
        one["name"], kind, default=one.get("default", inspect.Parameter.empty),
        annotation=one["shown"] or inspect.Parameter.empty,
    )  # fmt: skip
