"""Types and values as JSON that can be read back exactly; `Unwritable` for all others."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

PLAIN: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "none": type(None), "any": Any}
GENERIC: dict[str, Any] = {"list": list, "tuple": tuple, "dict": dict}


class Unwritable(Exception):
    """JSON cannot represent this value exactly."""


def value_out(value: Any) -> Any:
    """The value itself. Raises Unwritable if JSON would change it."""
    try:
        back = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise Unwritable(repr(value)) from None
    if back != value or type(back) is not type(value):
        raise Unwritable(repr(value))
    return value


def type_out(kind: Any) -> Any:
    """A type of an option: a name, or a list of a word and its parts. Raises Unwritable."""
    for name, known_type in PLAIN.items():
        if kind is known_type:
            return name
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ["literal", *map(value_out, parts)]
    if origin in (Union, types.UnionType):
        return ["union", *map(type_out, parts)]
    for name, known_type in GENERIC.items():
        if origin is known_type or kind is known_type:
            return [name, *("..." if part is ... else type_out(part) for part in parts)]
    raise Unwritable(repr(kind))


def type_in(written: Any) -> Any:
    """The inverse of `type_out`."""
    if isinstance(written, str):
        return ... if written == "..." else PLAIN[written]
    word, *parts = written
    if word == "literal":
        return Literal[tuple(parts)]
    inner = tuple(map(type_in, parts))
    if word == "union":
        return Union[inner]  # noqa: UP007
    return GENERIC[word][inner] if inner else GENERIC[word]


def copy_of(value: Any) -> Callable[[], Any]:
    """A factory of copies of a JSON value."""
    return lambda: json.loads(json.dumps(value))
