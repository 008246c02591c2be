"""Reward functions as `--reward` names them: where they are found, what they take, and what their options must be."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from zoo.contract.faults import FILE_PREFIX
from zoo.contract.plugin_files import import_file
from zoo.errors import PluginError, ZooError, nearest
from zoo.rewards.expression import Expression, Mention

Function = Callable[..., Sequence[Any]]
Marked = TypeVar("Marked", bound=Callable[..., Any])
FACTS = ("ended", "tokens")
"""What a function may take beside the answers and their records, by name: one value for each answer."""
NUMBERS = ("int", "float", "int | None", "float | None")
YES, NO = ("yes", "true", "on"), ("no", "false", "off")


def in_process(function: Marked) -> Marked:
    """Mark a reward that may run in the run's own process: it can neither hang nor end it, or needs what is in it."""
    function.in_process = True  # type: ignore[attr-defined]
    return function


def runs_in_process(function: Any) -> bool:
    return bool(getattr(getattr(function, "func", function), "in_process", False))


class Parameter(NamedTuple):
    """What a function takes: its name, its annotation as written ("" for none), and whether it must be given."""

    name: str
    annotation: str
    required: bool


@dataclass(frozen=True)
class Target:
    """Where a worker finds a function: in a module or a file, or in the pickle of the function itself."""

    place: str
    attribute: str = ""
    pickled: bytes = b""

    def find(self) -> Any:
        """The function, or the names of those in its module where none has that name. Raises what the import raises."""
        if self.pickled:
            import dill

            return dill.loads(self.pickled)
        if Path(self.place).is_file():
            try:
                module = import_file(Path(self.place))
            except ZooError as error:
                raise error.__cause__ or error from None
        else:
            module = importlib.import_module(self.place)
        function = getattr(module, self.attribute, None)
        return function if callable(function) else [name for name, one in vars(module).items() if callable(one)]


def target_of(function: Function, name: str) -> Target:
    """The target of a function that is at hand: by its place where it has one, else by what it is made of."""
    import dill

    module = sys.modules.get(str(getattr(function, "__module__", "")))
    file = getattr(module, "__file__", None)
    if module is not None and module.__name__.startswith(FILE_PREFIX) and file:
        return Target(file, getattr(function, "__name__", ""))
    code = getattr(function, "__code__", None)
    try:
        # recurse: of the globals only what the function uses.
        return Target(code.co_filename if code else "", pickled=dill.dumps(function, recurse=True))
    except Exception as error:
        raise PluginError(
            f"The reward '{name}' cannot be sent to a process of its own: {type(error).__name__}: {error}.",
            "It holds something that cannot be copied (an open file, a lock, a model). Make that inside of the "
            "function; or set function.in_process = True, if it can neither hang nor end the run.",
        ) from None


def parameters_of(function: Function) -> list[Parameter]:
    """Everything a function takes, in order; `*args` and `**kwargs` with their stars."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        Parameter(
            stars.get(one.kind, "") + one.name,
            "" if one.annotation is one.empty else _written(one.annotation),
            one.default is one.empty and one.kind not in stars,
        )
        for one in inspect.signature(function).parameters.values()
    ]


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def facts_of(parameters: Sequence[Parameter]) -> list[str]:
    """Which of FACTS a function asks for."""
    return [one.name for one in parameters if one.name in FACTS]


def options_for(
    mention: Mention, parameters: Sequence[Parameter], expression: Expression, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a mention as the function takes them. Raises ZooError that points at the mention.

    defaults: what the run gives to a function that asks for it by name, and that the mention does not set.
    """
    every = any(one.name.startswith("**") for one in parameters)
    plain = [one for one in parameters if not one.name.startswith("*")]
    if len(plain) < 2 and not any(one.name.startswith("*") for one in parameters):
        raise expression.error(
            f"'{mention.name}' takes {len(plain)} arguments", mention.at,
            "A reward is called with the answers and their records: def reward(completions, records).",
        )  # fmt: skip
    known = {one.name: one for one in plain[2:] if one.name not in FACTS}
    given = dict(mention.options)
    for name in given:
        if name not in known and not every:
            offered = f"It takes {', '.join(known)}." if known else "It takes none."
            guess = nearest(name, known)
            raise expression.error(f"'{mention.name}' has no option {name}", mention.at, offered, guess)
    options = {name: defaults[name] for name in known if defaults.get(name) is not None}
    options |= {name: _typed(value, known.get(name), mention, expression) for name, value in given.items()}
    if missing := [name for name, one in known.items() if one.required and name not in options]:
        hint = f"Write {mention.name}({missing[0]}=…)."
        raise expression.error(f"'{mention.name}' needs the option {missing[0]}", mention.at, hint)
    return options


def _typed(value: float | str, parameter: Parameter | None, mention: Mention, expression: Expression) -> Any:
    """An option as its annotation asks for it; as it was written, where there is none."""
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
