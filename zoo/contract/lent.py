"""Objects of a Python program that options name while a call goes on: `python:Mine`, a class; `python:reward`.

A run folder holds these names and no object, so only a program can go on with such a run: it gives the objects again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.errors import ZooError

PREFIX = "python:"
_lent: dict[str, Any] = {}


@contextlib.contextmanager
def lending(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let options name these objects within the block. objects: by name, with the prefix."""
    before = dict(_lent)
    _lent.update(objects)
    try:
        yield
    finally:
        _lent.clear()
        _lent.update(before)


def is_lent(name: str) -> bool:
    """Whether a name stands for an object of a program."""
    return name.startswith(PREFIX)


def is_here(name: str) -> bool:
    """Whether the program gives the object of a name."""
    return name in _lent


def lent(name: str) -> Any:
    """The object of a name. Raises ZooError where the program does not give it."""
    if name not in _lent:
        raise missing(name)
    return _lent[name]


def lent_functions() -> dict[str, Any]:
    """The objects that are functions, by name."""
    return {name: value for name, value in _lent.items() if not isinstance(value, type)}


def missing(name: str, run: str = "RUN") -> ZooError:
    """The error where nothing is given for a name."""
    own = name.removeprefix(PREFIX)
    given = f"{own}=…" if own in ("reward", "gold_reward") else f"algo={own}"
    return ZooError(
        f"{name} stands for an object that a Python program gave; only a program can give it again.",
        f"From Python: zoo.resume({run!r}, {given}) with the same object, or zoo.train(…, {given}).",
    )


# -- what it does ----------------------------------------------------------------------------------------------------

SKIPPED = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__qualname__",
    "__firstlineno__",
    "__static_attributes__",
}


def digest_of(thing: Any) -> str:
    """A hash of what a function or class does, wherever it stands: its code, constants, defaults, and what it calls
    in its own module."""
    return f"sha256:{hashlib.sha256(_told(thing, set()).encode()).hexdigest()}"


def _told(thing: Any, seen: set[int]) -> str:
    if isinstance(thing, str | bytes | int | float | bool | type(None)):
        return repr(thing)
    if isinstance(thing, types.FunctionType | type):
        if id(thing) in seen:
            return "again"
        seen.add(id(thing))
    if isinstance(thing, types.CodeType):
        return f"({thing.co_code!r} {thing.co_names} {thing.co_varnames} {_told(thing.co_consts, seen)})"
    if isinstance(thing, types.FunctionType):
        used = [thing.__globals__.get(name) for name in _names(thing.__code__)]
        own = [one for one in used if getattr(one, "__module__", None) == thing.__module__ and callable(one)]
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return " ".join(_told(p, seen) for p in (thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, own))
    if isinstance(thing, type):
        own = [base for base in thing.__mro__ if base.__module__.partition(".")[0] not in ("zoo", "builtins", "typing")]
        return " ".join(_told({k: v for k, v in vars(base).items() if k not in SKIPPED}, seen) for base in own)
    if isinstance(thing, staticmethod | classmethod | types.MethodType):
        return _told(thing.__func__, seen)
    if isinstance(thing, property):
        return _told(thing.fget, seen)
    if isinstance(thing, functools.partial):
        return _told([thing.func, thing.args, thing.keywords], seen)
    if isinstance(thing, Mapping):
        return f"{{{' '.join(f'{key}: {_told(value, seen)}' for key, value in thing.items())}}}"
    if isinstance(thing, set | frozenset):
        return f"{{{' '.join(sorted(_told(one, seen) for one in thing))}}}"
    if isinstance(thing, list | tuple):
        return f"[{' '.join(_told(one, seen) for one in thing)}]"
    if isinstance(thing, dataclasses.Field) or not callable(thing):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))
    return f"{_told(type(thing), seen)} {_told(getattr(thing, '__dict__', {}), seen)}"


def _names(code: types.CodeType) -> list[str]:
    """The names of globals that a function and the functions in it use."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *inner]
