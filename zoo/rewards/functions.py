"""Reward functions that `--reward` names: how they are found, their parameters, and the types of their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from zoo.errors import nearest
from zoo.options.expression import Expression, Mention

Function = Callable[..., Sequence[Any]]
Marked = TypeVar("Marked", bound=Callable[..., Any])
FACTS = ("ended", "tokens", "messages", "earned")
"""What a function may take by name besides the answers and their records: one value for each answer."""
Say = Callable[[str], None]
"""The annotation of a parameter by which a function in the run's own process gets the run's way to print a line."""
NUMBERS = ("int", "float", "int | None", "float | None")
YES, NO = ("yes", "true", "on"), ("no", "false", "off")


def in_process(function: Marked) -> Marked:
    """Mark a reward that may run in the run's own process: it can neither hang nor end it, or needs its objects."""
    function.in_process = True  # type: ignore[attr-defined]
    return function


def runs_in_process(function: Any) -> bool:
    return bool(getattr(getattr(function, "func", function), "in_process", False))


class Parameter(NamedTuple):
    """A parameter of a function: its name, its annotation as written ("" for none), and whether it is required."""

    name: str
    annotation: str
    required: bool


def parameters_of(function: Function) -> list[Parameter]:
    """All parameters of a function, in order; `*args` and `**kwargs` with their stars."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        Parameter(
            stars.get(parameter.kind, "") + parameter.name,
            "" if parameter.annotation is parameter.empty else _written(parameter.annotation),
            parameter.default is parameter.empty and parameter.kind not in stars,
        )
        for parameter in inspect.signature(function).parameters.values()
    ]


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def facts_of(parameters: Sequence[Parameter]) -> list[str]:
    """Which of FACTS a function asks for."""
    return [parameter.name for parameter in parameters if parameter.name in FACTS]


def options_for(
    mention: Mention, parameters: Sequence[Parameter], expression: Expression, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a mention in the types that the function takes. Raises ZooError that points at the mention.

    defaults: values of the run for parameters of these names that the mention does not set.
    """
    takes_any = any(parameter.name.startswith("**") for parameter in parameters)
    plain = [parameter for parameter in parameters if not parameter.name.startswith("*")]
    if len(plain) < 2 and not any(parameter.name.startswith("*") for parameter in parameters):
        raise expression.error(
            f"'{mention.name}' takes {len(plain)} arguments", mention.at,
            "A reward is called with the answers and their records: def reward(completions, records).",
        )  # fmt: skip
    options_of = [parameter for parameter in plain[2:] if parameter.annotation != "Say"]
    accepted = {parameter.name: parameter for parameter in options_of if parameter.name not in FACTS}
    return typed_options(mention, accepted, expression, defaults, takes_any)


def typed_options(
    mention: Mention, accepted: Mapping[str, Parameter], expression: Expression, defaults: Mapping[str, Any],
    takes_any: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The options of a mention in the types of these parameters; takes_any: others too. Raises ZooError."""
    settings = dict(mention.options)
    for name in settings:
        if name not in accepted and not takes_any:
            offered = f"It takes {', '.join(accepted)}." if accepted else "It takes none."
            guess = nearest(name, accepted)
            raise expression.error(f"'{mention.name}' has no option {name}", mention.at, offered, guess)
    options = {name: defaults[name] for name in accepted if defaults.get(name) is not None}
    options |= {name: _typed(value, accepted.get(name), mention, expression) for name, value in settings.items()}
    if missing := [name for name, parameter in accepted.items() if parameter.required and name not in options]:
        hint = f"Write {mention.name}({missing[0]}=…)."
        raise expression.error(f"'{mention.name}' needs the option {missing[0]}", mention.at, hint)
    return options


def _typed(value: float | str, parameter: Parameter | None, mention: Mention, expression: Expression) -> Any:
    """An option in the type of its annotation; unchanged if there is none."""
    name, annotation = (parameter.name, parameter.annotation) if parameter else ("", "")
    if annotation in NUMBERS and isinstance(value, str):
        raise expression.error(f"{name} must be a number, not '{value}'", mention.at)
    if annotation.startswith("int") and isinstance(value, float):
        if not value.is_integer():
            raise expression.error(f"{name} must be a whole number, not {value}", mention.at)
        return int(value)
    if annotation == "bool":
        word = str(value).lower()
        if word not in (*YES, *NO, "0", "1"):
            raise expression.error(f"{name} must be yes or no, not '{value}'", mention.at)
        return word in (*YES, "1")
    return str(value) if annotation in ("str", "str | None") else value
