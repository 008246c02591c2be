"""Named functions that plugins contribute, with their options, from cards, because importing them would load torch."""

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
    """The contributions of all plugins to a hook; if they come from a card, their functions cannot be called.

    function_of: gives the function of a contribution, whose parameters are its options; facts_of: gives the rest of it
    as JSON; make: makes a contribution from its facts and a function with the same parameters.
    """
    modules = dict(registry.plugin_modules()[0])
    place = sorted(f"{name} {getattr(module, '__file__', '')}" for name, module in modules.items())
    whole = all(getattr(module, "__file__", None) for module in modules.values()) and not registry.plugin_modules()[1]
    if whole and (card := kept.read(hook, place)) is not None:
        return {
            name: make(contribution["facts"], _function_in(contribution["function"]))
            for name, contribution in card.items()
        }
    contributions = registry.contributions(registry.manager(), hook)
    if whole:
        with contextlib.suppress(Unwritable):
            card = {
                name: {"facts": facts_of(contribution), "function": _function_out(function_of(contribution))}
                for name, contribution in contributions.items()
            }
            files = {file for module in modules.values() for file in kept.files_of(module)}
            files |= set(kept.files_behind(*(function_of(contribution) for contribution in contributions.values())))
            kept.write(hook, place, card, sorted(files))
    return contributions


def _function_out(function: Any) -> Facts:
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    parameters = inspect.signature(function).parameters.values()
    return {
        "about": inspect.getdoc(function) or "",
        "parameters": [_parameter_out(parameter, hints) for parameter in parameters],
    }


def _parameter_out(parameter: inspect.Parameter, hints: Facts) -> Facts:
    default = {} if parameter.default is parameter.empty else {"default": value_out(parameter.default)}
    shown = "" if parameter.annotation is parameter.empty else parameter.annotation
    shown = shown if isinstance(shown, str) else getattr(shown, "__name__", str(shown))
    return {
        "name": parameter.name,
        "kind": int(parameter.kind),
        "shown": shown,
        "type": _type(hints, parameter.name),
        **default,
    }


def _type(hints: Facts, name: str) -> Any:
    """The type of a parameter; text for a type that options cannot have, because every option is first a text."""
    try:
        return type_out(hints.get(name, str))
    except Unwritable:
        return "str"


def _function_in(card: Facts) -> Callable[..., Any]:
    def function(*given: Any, **options: Any) -> Any:
        raise AssertionError("made from a card, so it cannot be called")

    function.__doc__ = card["about"]
    function.__signature__ = inspect.Signature(list(map(_parameter_in, card["parameters"])))  # type: ignore[attr-defined]
    function.__annotations__ = {parameter["name"]: type_in(parameter["type"]) for parameter in card["parameters"]}
    return function


def _parameter_in(fact: Facts) -> inspect.Parameter:
    kind = next(kind for kind in inspect._ParameterKind if int(kind) == fact["kind"])
    return inspect.Parameter(
        fact["name"], kind, default=fact.get("default", inspect.Parameter.empty),
        annotation=fact["shown"] or inspect.Parameter.empty,
    )  # fmt: skip
