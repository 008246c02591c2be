"""How chat templates write calls of tools, in a few shapes, and what reads each.

    objects  <tool_call>{"name": "add", "arguments": {"a": 8}}</tool_call>, also several in a list, also without tags
    named    add[ARGS]{"a": 8}: the name, and behind some tag the arguments
    pairs    <function=add><parameter=a>8</parameter></function>: every argument in tags of its own
    python   [add(a=8)]

The words around a call are the template's own: they are found in a call that it has written.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

DEPTH = 50
"""How deeply the arguments of a call may be nested."""
NEAR = 100
"""Characters within which the arguments begin behind the name."""
NAMES = ("name", "tool_name")
ARGUMENTS = ("arguments", "parameters")
_NAME = re.compile(r"\s*([\w.\-/]{1,200})")
TAG = re.compile(r"<[^<>\n]*>|\[/?[A-Z_]+\]|```")
_LIKE_A_CALL = re.compile(r"""[\[{\s]*["'](?:tool_)?name["']\s*:|\[\s*[\w.]+\(""")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BETWEEN = re.compile(r"[\s;,]*")

Call = dict[str, Any]
Types = Mapping[str, Mapping[str, Any]]
"""The types of parameters, by tool and name."""


class Unreadable(ValueError):
    """A call that cannot be read: the reason, its name if it has one, and where it ends if that is known."""

    def __init__(self, reason: str, name: str = "", end: int | None = None):
        super().__init__(reason)
        self.name, self.end = name, end


class Shape(Protocol):
    """How calls are written."""

    @property
    def opening(self) -> str:
        """What stands before each call; nothing if calls are the whole text."""

    @property
    def closing(self) -> str:
        """What may stand behind a call."""

    def read(self, text: str, place: int) -> tuple[list[Call], int]:
        """The calls at a place behind the opening, and where they end. Raises Unreadable."""


def call_of(name: Any, arguments: Any) -> Call:
    """A call as an environment takes it. Raises Unreadable."""
    if not isinstance(name, str) or not name.strip():
        raise Unreadable("the call has no name")
    if isinstance(arguments, str) and arguments.strip():
        arguments, _ = _decoded(arguments, 0, name)
    arguments = {} if arguments is None or arguments == "" else arguments
    if not isinstance(arguments, dict):
        raise Unreadable("its arguments are not an object", name)
    return {"type": "function", "function": {"name": _printable(name), "arguments": _checked(arguments, name)}}


def unreadable(error: Unreadable) -> Call:
    """A call in the place of one that cannot be read."""
    function = {"name": _printable(error.name), "arguments": {}}
    return {"type": "function", "function": function, "error": f"This call cannot be read: {error}."}


# -- shapes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objects:
    """JSON objects with a name and arguments, alone or in a list."""

    opening: str = "<tool_call>"
    closing: str = "</tool_call>"

    def read(self, text: str, place: int) -> tuple[list[Call], int]:
        """The calls at a place, and where they end."""
        value, end = _decoded(text, place)
        return [_from_object(item) for item in (value if isinstance(value, list) else [value])], end


@dataclass(frozen=True)
class Named:
    """A name, and arguments behind it.

    before: what stands last before the arguments; quote: around texts in them, if they are written as JSON without
    quotes.
    """

    opening: str
    closing: str
    before: str
    quote: str = ""

    def read(self, text: str, place: int) -> tuple[list[Call], int]:
        """The call at a place, and where it ends."""
        name, end = _name(text, place)
        found = text.find(self.before, end, end + NEAR) if self.before else end
        if found < 0:
            raise Unreadable(f"{self.before.strip()!r} and the arguments do not follow its name", name)
        place = found + len(self.before)
        arguments, end = _unquoted(text, place, self.quote, name) if self.quote else _decoded(text, place, name)
        return [call_of(name, arguments)], end


@dataclass(frozen=True)
class Pairs:
    """A name, and keys and values in tags.

    first: between the name and the first key; middle: between a key and its value; then: between a value and the next
    key; last: behind the last value; none: behind the name if there are no arguments; types: of parameters, by tool.
    """

    opening: str
    closing: str
    first: str
    middle: str
    then: str
    last: str
    none: str
    types: Types = field(default_factory=dict)

    def read(self, text: str, place: int) -> tuple[list[Call], int]:
        """The call at a place, and where it ends."""
        name, end = _name(text, place)
        found: dict[str, Any] = {}
        step = _loose(self.first).match(text, end)
        if not step:
            if stop := _loose(self.none).match(text, end):
                return [call_of(name, {})], stop.end()
            raise Unreadable(f"{self.first.strip()!r} does not follow its name", name)
        behind = re.compile(f"(?P<then>{_loose(self.then).pattern})|{_loose(self.last).pattern}")
        while step:
            key, end = _name(text, step.end())
            middle = _loose(self.middle).match(text, end)
            if not middle:
                raise Unreadable(f"{self.middle.strip()!r} does not follow {key!r}", name)
            step = behind.search(text, middle.end())
            if not step:
                raise Unreadable(f"the value of {key!r} has no end", name, len(text))
            found[key] = self._value(name, key, text[middle.end() : step.start()])
            end = step.end()
            step = step if step["then"] is not None else None
        return [call_of(name, found)], end

    def _value(self, name: str, key: str, text: str) -> Any:
        if self.types.get(name, {}).get(key) in (None, "string"):
            return text
        try:
            return _decoded(text, 0)[0]
        except Unreadable:
            return text


@dataclass(frozen=True)
class Python:
    """A list of calls with keywords, as Python writes them."""

    opening: str
    closing: str

    def read(self, text: str, place: int) -> tuple[list[Call], int]:
        """The calls at a place, and where they end."""
        end = text.find(self.closing, place) if self.closing else len(text)
        end = end if end >= 0 else len(text)
        source = text[place:end].strip()
        try:
            with warnings.catch_warnings(action="ignore"):
                listed = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise Unreadable(f"it is no list of calls ({_reason(error)})", end=end) from None
        if not isinstance(listed, ast.List) or not listed.elts:
            raise Unreadable("it is no list of calls", end=end)
        try:
            return [_from_python(item) for item in listed.elts], end
        except Unreadable as error:
            raise Unreadable(str(error), error.name, end) from None


# -- values --------------------------------------------------------------------------------------------------------


def bare(text: str, shape: Shape) -> tuple[str, list[Call]]:
    """A text without the calls that it begins with, and these."""
    calls: list[Call] = []
    place = len(text) - len(text.lstrip())
    while text.startswith(("{", "["), place):
        try:
            found, place = shape.read(text, place)
        except Unreadable as error:
            # Much may begin with a bracket: it is an attempt at a call if it looks like one.
            if calls or _LIKE_A_CALL.match(text, place):
                return "", [*calls, unreadable(error)]
            return text, []
        calls += found
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
    return text[place:] if calls else text, calls


def _from_object(value: Any) -> Call:
    if not isinstance(value, dict):
        raise Unreadable("it is no object")
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name = next((value[key] for key in NAMES if key in value), value.get("function"))
    call = call_of(name, next((value[key] for key in ARGUMENTS if key in value), None))
    own = value.get("id")
    # Templates refuse ids of other forms.
    return {**call, "id": own} if isinstance(own, str) and re.fullmatch(r"[A-Za-z0-9]{9}", own) else call


def _from_python(item: ast.expr) -> Call:
    if not isinstance(item, ast.Call):
        raise Unreadable("it is no list of calls")
    try:
        name = ast.unparse(item.func)
        if item.args or any(keyword.arg is None for keyword in item.keywords):
            raise Unreadable("its arguments have no names", name)
        values = {str(keyword.arg): _literal(keyword.value) for keyword in item.keywords}
    except Unreadable:
        raise
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise Unreadable(f"its arguments are no values ({_reason(error)})") from None
    return call_of(name, values)


CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


def _literal(node: ast.expr) -> Any:
    """A value of Python, in which the constants of JSON are known too."""
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        return CONSTANTS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_literal(k)): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{type(value).__name__} is no value of JSON")
    return value


def _name(text: str, place: int) -> tuple[str, int]:
    found = _NAME.match(text, place)
    if not found:
        raise Unreadable("the call has no name")
    return found[1], found.end()


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no value of JSON")


_JSON = json.JSONDecoder(strict=False, parse_constant=_refused)


def _decoded(text: str, place: int, name: str = "") -> tuple[Any, int]:
    """A JSON value at a place, and where it ends."""
    while place < len(text) and text[place].isspace():
        place += 1
    try:
        return _JSON.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise Unreadable(f"its JSON is broken at character {error.pos - place + 1}: {error.msg}", name) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"its JSON cannot be read ({_reason(error)})", name) from None


def _unquoted(text: str, place: int, quote: str, name: str) -> tuple[Any, int]:
    """A value at a place that is JSON but for the quotes, which only stand around texts, and are others."""
    mark = re.escape(quote)
    pieces = re.compile(f"{mark}(?P<text>.*?){mark}|[{{}}\\[\\],:]|[^\\s{{}}\\[\\],:]+", re.DOTALL)
    parts, depth = [], 0
    for part in pieces.finditer(text, place):
        word = part.group()
        depth += (word in ("{", "[")) - (word in ("}", "]"))
        if part["text"] is not None:
            parts.append(json.dumps(part["text"]))
        elif word in "{}[],:" or _NUMBER.fullmatch(word):
            parts.append(word)
        else:
            parts.append(json.dumps(CONSTANTS.get(word, word)))
        if depth <= 0:
            return _decoded("".join(parts), 0, name)[0], part.end()
    raise Unreadable("its arguments have no end", name, len(text))


def _checked(value: Any, name: str, depth: int = 0) -> Any:
    """A value without what cannot be written as UTF-8. Raises Unreadable for one that is nested too deeply."""
    if depth > DEPTH:
        raise Unreadable(f"its arguments are nested more than {DEPTH} times", name)
    if isinstance(value, dict):
        return {_printable(key): _checked(inner, name, depth + 1) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_checked(inner, name, depth + 1) for inner in value]
    if value in (float("inf"), float("-inf")) or value != value:
        raise Unreadable("a number in its arguments is too large", name)
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _reason(error: BaseException) -> str:
    return str(getattr(error, "msg", "") or error).split("\n")[0][:100] or type(error).__name__


def _loose(text: str) -> re.Pattern[str]:
    """Matches a text whose white space may be missing."""
    letters = (f"(?:{re.escape(letter)})?" if letter.isspace() else re.escape(letter) for letter in text)
    return re.compile("".join(letters))
