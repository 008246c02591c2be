"""Options from dataclasses: one field is a flag, a YAML key, a keyword argument and its own help text.

The help of an option is the string literal under its field, read from the source. pydantic validates values of every
origin (flag text, YAML, Python), so that a mistake gives the same message everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.errors import ZooError, nearest
from zoo.options.spelling import split
from zoo.secrets import secret_in

HELPS = "__helps__"
"""The attribute of a class that was not written but made, with the help of its fields."""


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
        """The name of the type in messages: `float`, `a|b`, `int or none`, `str,…`."""
        return " or ".join(_type_names(self.type))

    @property
    def value_name(self) -> str:
        """The value's name after the flag in help: the type without `none`, which all optional values accept."""
        return " or ".join(name for name in _type_names(self.type) if name != "none")

    @property
    def default_text(self) -> str:
        """The default as one would type it: `none` for no value."""
        return "none" if self.default in (None, "") else str(self.default)


def require(holds: Any, sentence: str) -> None:
    """For `__post_init__` of options: raises ValueError with the sentence unless it holds."""
    if not holds:
        raise ValueError(sentence)


def _type_names(kind: Any) -> list[str]:
    """The names of a type, or of the members of a union; `str` is left out if it only spells a list or mapping."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    from_text = {part for part in parts if get_origin(part) in (list, tuple, dict)}
    return [_type_name(part) for part in parts if not (from_text and part is str)]


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(str(value) for value in get_args(kind))
    if kind is type(None):
        return "none"
    if get_origin(kind) in (list, tuple):
        return f"{_type_name(get_args(kind)[0])},…"
    if get_origin(kind) is dict:
        return "name=value,…" if get_args(kind)[1] is Any else "name=name,…"
    return getattr(kind, "__name__", str(kind))


def options_of(cls: type) -> list[Option]:
    """The options of a dataclass, those of its bases first, in the order of the source.

    A class without source text lists its options in `__options__`.
    """
    return list(_options(cls))


@cache
def _options(cls: type) -> tuple[Option, ...]:
    if (declared := vars(cls).get("__options__")) is not None:
        return tuple(declared)
    hints = get_type_hints(cls)
    groups, helps = {}, {}
    for base in reversed(cls.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        group = (inspect.getdoc(base) or base.__name__).splitlines()[0].rstrip(".")
        for name, text in _field_helps(base).items():
            groups[name], helps[name] = group, text
    return tuple(
        Option(field.name, hints[field.name], default_of(field), helps.get(field.name, ""), groups.get(field.name, ""))
        for field in dataclasses.fields(cls)
    )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field; `dataclasses.MISSING` when it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@cache
def _field_helps(cls: type) -> dict[str, str]:
    """`{field: string below it}` for the fields that this class itself declares.

    A class without source text of its own has them in `__helps__`.
    """
    if (helps := vars(cls).get(HELPS)) is not None:
        return dict(helps)
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


def refuse_unknown(
    names: Iterable[str],
    known: Sequence[str],
    *,
    what: str,
    where: Mapping[str, str],
    listed_by: str = "",
    other_names: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises ZooError for unknown names, each with the nearest known name.

    known: of two equally near names the earlier wins; listed_by: the command that lists all names, if there are many;
    other_names: names in other trainers, with the name here.
    """
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    lines = [
        f"Unknown option '{name}'{_origin(name, where)} for {what}.{nearest(other_names.get(name, name), known)}"
        for name in unknown
    ]
    everything = f"It takes: {', '.join(known) or 'no options'}."
    raise ZooError("\n".join(lines), f"All {len(known)} are listed by: {listed_by}" if listed_by else everything)


def _origin(name: str, where: Mapping[str, str]) -> str:
    return f" ({where[name]})" if name in where else ""


def build(cls: type, values: Mapping[str, Any], *, what: str, where: Mapping[str, str] | None = None) -> Any:
    """An instance of the dataclass `cls` from validated values.

    what: how to name the thing in errors ("zoo train"); where: the origin of each value, for errors.
    Raises ZooError for unknown names (with the nearest), values of the wrong type, or a missing option.
    """
    from pydantic import ValidationError

    options = {option.name: option for option in options_of(cls)}
    where = where or {}
    refuse_unknown(values, list(options), what=what, where=where)
    _refuse_secrets(values, what, where)
    prepared = {name: _split_lists(options[name].type, value) for name, value in values.items()}
    for name, value in prepared.items():
        if float in (options[name].type, *get_args(options[name].type)) and not _finite(value):
            raise ZooError(
                f"Option '{name}'{_origin(name, where)} of {what} must be a finite number, got {value!r}.",
                f"{options[name].flag}: {options[name].help}",
            )
    try:
        return _validator(cls).validate_python(prepared)
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for problem in error.errors():
            if not problem["loc"]:
                raise _refused(problem["msg"].removeprefix("Value error, "), options, prepared, what, where) from None
            wrong.setdefault(str(problem["loc"][0]), problem["msg"])
        lines = [
            f"Option '{name}'{_origin(name, where)} of {what} must be {options[name].type_name}"
            + (f", got {prepared[name]!r}" if name in prepared else "")
            + f": {reason}."
            for name, reason in wrong.items()
        ]
        hints = [f"{options[name].flag}: {options[name].help}" for name in wrong]
        raise ZooError("\n".join(lines), "\n".join(hints)) from None


def _refuse_secrets(values: Mapping[str, Any], what: str, where: Mapping[str, str]) -> None:
    """Raises ZooError for a key in a value: the files of a run keep its options."""
    for name, value in values.items():
        if secret := secret_in(str(value)):
            raise ZooError(
                f"Option '{name}'{_origin(name, where)} of {what} holds {secret}, and a run keeps its options.",
                "Set keys in the environment: ZOO_JUDGE_KEY or OPENAI_API_KEY for a judge, ZOO_REWARD_KEY for a "
                "reward server, HF_TOKEN for the hub.",
            )


@cache
def _validator(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _refused(
    reason: str, known: Mapping[str, Option], values: Mapping[str, Any], what: str, where: Mapping[str, str]
) -> ZooError:
    """The error of a class about its own options, with the values and the help of those that it names."""
    named = [name for name in known if re.search(rf"\b{re.escape(name)}\b", reason)]
    got = ", ".join(f"{name} = {values.get(name, known[name].default)}{_origin(name, where)}" for name in named)
    return ZooError(
        f"These options of {what} cannot be used: {reason}" + (f"; got {got}." if got else "."),
        "\n".join(f"{known[name].flag}: {known[name].help}" for name in named),
    )


def _finite(value: Any) -> bool:
    """False for infinities and NaN, as a number or as text; True for everything else."""
    try:
        return not isinstance(value, (int, float, str)) or math.isfinite(float(value))
    except (ValueError, OverflowError):
        return True


def _split_lists(kind: Any, value: Any) -> Any:
    """Text for a list is split at commas outside brackets; `none` for an optional value is None."""
    parts = get_args(kind)
    if isinstance(value, str) and type(None) in parts and value.lower() == "none":
        return None
    if isinstance(value, str) and str in parts and "," not in value:
        return value
    listy = next((part for part in (kind, *parts) if get_origin(part) in (list, tuple) or part in (list, tuple)), None)
    if isinstance(value, str) and listy is not None:
        parts_of = split(value)
        return [item.strip() for item in value.split(",") if item.strip()] if parts_of is None else parts_of
    return value
