"""Options from dataclasses: one field is a flag, a YAML key, a keyword argument and its own help text.

The help of an option is the string literal under its field, read from the source. Values of any origin (flag text,
YAML, Python) are validated by pydantic, so that a mistake has one message wherever it was made.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class Option:
    """One field of an options dataclass. `group` is the first line of the docstring of the class that declares it."""

    name: str
    type: Any
    default: Any
    help: str
    group: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_flag(self) -> bool:
        return self.type is bool

    @property
    def type_name(self) -> str:
        """How the type is shown in help: `float`, `a|b`, `int or none`."""
        return _type_name(self.type)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(str(value) for value in get_args(kind))
    if get_origin(kind) in (Union, getattr(__import__("types"), "UnionType", Union)):
        return " or ".join(_type_name(part) for part in get_args(kind))
    if kind is type(None):
        return "none"
    if get_origin(kind) in (list, tuple):
        return f"{_type_name(get_args(kind)[0])},…"
    return getattr(kind, "__name__", str(kind))


def options_of(cls: type) -> list[Option]:
    """The options of a dataclass, those of its bases first, in the order they are written."""
    hints = get_type_hints(cls)
    groups, helps = {}, {}
    for base in reversed(cls.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        group = (inspect.getdoc(base) or base.__name__).splitlines()[0].rstrip(".")
        for name, text in _field_helps(base).items():
            groups[name], helps[name] = group, text
    return [
        Option(field.name, hints[field.name], default_of(field), helps.get(field.name, ""), groups.get(field.name, ""))
        for field in dataclasses.fields(cls)
    ]


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field; `dataclasses.MISSING` when it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _field_helps(cls: type) -> dict[str, str]:
    """`{field: string below it}` of the fields that this class itself writes down."""
    own = dict.fromkeys(cls.__dict__.get("__annotations__", {}), "")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return own
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for statement, below in zip(body, body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            own[statement.target.id] = " ".join(below.value.value.split())
    return own


def build(cls: type, values: Mapping[str, Any], *, what: str, where: Mapping[str, str] | None = None) -> Any:
    """An instance of the dataclass `cls` from validated values.

    what: how to name the thing in errors ("zoo train"); where: the origin of each value, for errors.
    Raises ZooError on an unknown name (with the nearest), a value of the wrong type, or a missing option.
    """
    from pydantic import TypeAdapter, ValidationError

    known = {option.name: option for option in options_of(cls)}
    where = where or {}
    for name in values:
        if name not in known:
            origin = f" ({where[name]})" if name in where else ""
            raise ZooError(
                f"Unknown option '{name}'{origin} for {what}.{nearest(name, known)}",
                f"It takes: {', '.join(known) or 'no options'}.",
            )
    prepared = {name: _split_lists(known[name].type, value) for name, value in values.items()}
    try:
        return TypeAdapter(cls).validate_python(prepared)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ZooError(f"The options of {what} do not go together: {first['msg']}.") from None
        name = str(first["loc"][0])
        origin = f" ({where[name]})" if name in where else ""
        expected = known[name].type_name if name in known else "a value"
        shown = f", got {prepared[name]!r}" if name in prepared else ""
        raise ZooError(
            f"Option '{name}'{origin} of {what} must be {expected}{shown}: {first['msg']}.",
            f"{known[name].flag}: {known[name].help}" if name in known else "",
        ) from None


def _split_lists(kind: Any, value: Any) -> Any:
    """Text given for a list is cut at commas; `none` given for an optional value is None."""
    parts = get_args(kind)
    if isinstance(value, str) and type(None) in parts and value.lower() == "none":
        return None
    if isinstance(value, str) and str in parts and "," not in value:
        return value
    listy = next((part for part in (kind, *parts) if get_origin(part) in (list, tuple) or part in (list, tuple)), None)
    if isinstance(value, str) and listy is not None:
        return [item.strip() for item in value.split(",") if item.strip()]
    return value
