"""Types and values as JSON, so that they come back as they were; `Unwritable` for what does not."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

PLAIN: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "none": type(None), "any": Any}
GENERIC: dict[str, Any] = {"list": list, "tuple": tuple, "dict": dict}


class Unwritable(Exception):
    """JSON has nothing that would come back as this."""


def value_out(value: Any) -> Any:
    """The value itself. Raises Unwritable where JSON would change it."""
    try:
        back = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise Unwritable(repr(value)) from None
    if back != value or type(back) is not type(value):
        raise Unwritable(repr(value))
    return value


def type_out(kind: Any) -> Any:
    """A type of an option: a name, or a list of a word and its parts. Raises Unwritable."""
    for name, one in PLAIN.items():
        if kind is one:
            return name
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ["literal", *map(value_out, parts)]
    if origin in (Union, types.UnionType):
        return ["union", *map(type_out, parts)]
    for name, one in GENERIC.items():
        if origin is one or kind is one:
            return [name, *("..." if part is ... else type_out(part) for part in parts)]
    raise Unwritable(repr(kind))


def type_in(written: Any) -> Any:
    """What `type_out` was given."""
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
