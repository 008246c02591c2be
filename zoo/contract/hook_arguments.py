"""Checks the arguments of a hook implementation: only the hook's own arguments, by name.

The plugin manager would pass nothing to an argument with a default, to `*args` or to `**kwargs`, and its own messages
are hard to read. This module reports each mistake with file, line and the probable intention.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from zoo.contract import hookspecs
from zoo.errors import PluginError, nearest

HOOKS = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "zoo_spec")}


def arguments_of(hook: str) -> list[str]:
    """The names of the arguments that a hook offers."""
    return list(inspect.signature(HOOKS[hook]).parameters)


def check_arguments(function: Callable[..., Any], hook: str, title: str, *, skip_first: bool = False) -> None:
    """Raise PluginError if `function`, called `title` in the message, cannot be called as `hook`.

    skip_first: the function is an unbound method, so its first parameter is the instance.
    """
    offered = arguments_of(hook)
    parameters = list(inspect.signature(function).parameters.values())[int(skip_first) :]
    for parameter in parameters:
        if parameter.name not in offered or parameter.kind not in _PLAIN:
            guess = nearest(parameter.name, offered)
            what = (
                f"takes '{str(parameter).split(':')[0].split('=')[0]}', which is not an argument of this hook.{guess}"
            )
        elif parameter.default is not inspect.Parameter.empty:
            what = f"gives '{parameter.name}' a default, so it would always have that value."
        else:
            continue
        raise PluginError(
            f"{place_of(function)}: {title} {what}",
            f"{hook} may take: {', '.join(offered)}; any of them, by these names, without defaults.",
        )


def may_write(cls: type[Any]) -> bool:
    """Whether an algorithm's policy may write answers: in rollouts, or in a hook around training that has models."""
    return cls.online() or any(_takes(cls, hook, "models") for hook in ("prepare", "finish"))


def learns_from_rewards(cls: type[Any], roles: Collection[str]) -> bool:
    """Whether an algorithm's rollouts ask for rewards to learn from. roles: those of the run; with a judge, its
    judgements take their place."""
    return _takes(cls, "rollout", "score") and "judge" not in roles


def _takes(cls: type[Any], hook: str, argument: str) -> bool:
    return hasattr(cls, hook) and argument in inspect.signature(getattr(cls, hook)).parameters


def named_hook(algorithm: Any, hook: str) -> str:
    """`file.py, line 12: Mine.loss`: what a message about the result of a hook begins with."""
    title = f"{type(algorithm).__name__}.{hook}"
    function = getattr(algorithm, hook, None)
    return title if function is None else f"{place_of(function)}: {title}"


def place_of_attribute(cls: type, name: str) -> str:
    """`file.py, line 8`: where a class, or one that it inherits from, gives an attribute its value; else its file."""
    owner = next((one for one in cls.__mro__ if name in vars(one)), cls)
    try:
        lines, first = inspect.getsourcelines(owner)
    except (TypeError, OSError):
        return file_of(cls)
    at = next((i for i, line in enumerate(lines) if re.match(rf"\s*{re.escape(name)}\s*[:=]", line)), None)
    return file_of(owner) + ("" if at is None else f", line {first + at}")


def place_of(function: Callable[..., Any]) -> str:
    """`file.py, line 12`: the place of a function's definition."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return str(getattr(function, "__module__", "?"))
    return f"{shown(code.co_filename)}, line {code.co_firstlineno}"


def file_of(thing: Any) -> str:
    """The file in which a class is defined."""
    try:
        return shown(inspect.getfile(thing))
    except (TypeError, OSError):
        return str(getattr(thing, "__module__", "?"))


def shown(file: str) -> str:
    """A file as one would type it: relative to the working folder if it is below it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
