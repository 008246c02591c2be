"""Messages in the form that chat templates expect, and the texts that must reappear in what a template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from zoo.data.formats.message import REASONING_KEYS
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError

_GAP = re.compile(r"\A(?:\s*\n)?(?: (?!\s))?")
_THOUGHT = re.compile(r"(\A(?:(?!<think>).)*?</think>|<think>.*?</think>)", re.DOTALL)
"""Thoughts in a content, with their tags. The opening one may stand in the prompt that asked for the answer."""


def prepared(messages: list[Message]) -> list[Message]:
    """The messages as a template takes them: the arguments of calls as objects, no null values, no marks of training.

    Templates print null as `None`, fail on a missing content, and write JSON text as a quoted string.
    """
    result = []
    for turn in messages:
        turn = {"content": "", **{key: value for key, value in turn.items() if value is not None and key != "train"}}
        if turn.get("tool_calls"):
            turn["tool_calls"] = [_with_arguments(call, _decoded) for call in turn["tool_calls"]]
        result.append(turn)
    return result


def as_turn(text: str, role: str) -> Message:
    """A bare text as a turn of its own.

    An answer loses the blank lines and the single space that separated it from its prompt: the template separates turns
    in its own way, and the model would learn to begin with a space. Two spaces or more are kept, because they indent
    code.
    """
    return {"role": role, "content": _GAP.sub("", text) if role == "assistant" else text}


def with_text_arguments(messages: list[Message]) -> list[Message]:
    """The arguments of tool calls as JSON text, which some templates require."""
    return [
        {**turn, "tool_calls": [_with_arguments(call, _as_text) for call in turn["tool_calls"]]}
        if turn.get("tool_calls")
        else turn
        for turn in messages
    ]


def objects_of(messages: list[Message]) -> list[Any]:
    """The arguments of calls that are objects with something in them."""
    calls = [call.get("function") or call for turn in messages for call in calls_of(turn)]
    arguments = [call.get("arguments") for call in calls]
    return [value for value in arguments if isinstance(value, dict) and value]


def in_parts(messages: list[Message]) -> list[Message]:
    """The messages with their contents as lists of one part, as templates for pictures take them."""
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]


def tool_list(tools: Any) -> list[Any] | None:
    """Tool schemas from a list, or from the JSON of a list; None if there are none. Raises RowError."""
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
        tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in tools or ()]
    except (ValueError, TypeError):
        raise RowError("E_TYPE", "tools", "is not a list of tool schemas") from None
    return tools or None


def tool_names(tools: list[Any] | None) -> list[str]:
    """Names of the functions in tool schemas."""
    schemas = [tool.get("function", tool) for tool in tools or () if isinstance(tool, dict)]
    return [str(schema["name"]) for schema in schemas if schema.get("name")]


def calls_of(turn: Message) -> list[dict[str, Any]]:
    """The calls of a turn that are objects, as they should be."""
    return [call for call in turn.get("tool_calls") or () if isinstance(call, dict)]


def called(turn: Message) -> list[str]:
    """Names of the functions that a turn calls."""
    return tool_names(turn.get("tool_calls"))


def marks_of(messages: list[Message]) -> list[bool | None]:
    """Whether each message says that it is trained; None where it does not say."""
    return [turn.get("train") for turn in messages]


def says_something(turn: Message) -> bool:
    """Whether a turn has a content beside its thoughts, or a call, or thoughts of its own."""
    return bool(turn.get("tool_calls")) or any(parts_of(turn))


class Parts(NamedTuple):
    """The texts of a turn, without their tags and white space at the ends; empty ones are left out."""

    contents: list[str]
    thoughts: list[str]


def parts_of(turn: Message) -> Parts:
    """The contents and the thoughts of a turn, which stand in keys of their own or between <think> tags."""
    if len(turn) == 2 and "</think>" not in turn["content"]:
        # Most turns of most files.
        content = turn["content"].strip()
        return Parts([content] if content else [], [])
    thoughts = [str(turn[key]) for key in REASONING_KEYS if isinstance(turn.get(key), str)]
    pieces = split_thoughts(turn)
    inner = [text.removesuffix("</think>").removeprefix("<think>") for text in pieces[1::2]]
    return Parts(*([part for text in texts if (part := text.strip())] for texts in (pieces[::2], thoughts + inner)))


def split_thoughts(turn: Message) -> list[str]:
    """The content of a turn cut at its thoughts, which are every second piece; only an assistant has some."""
    text = turn["content"]
    return _THOUGHT.split(text) if turn["role"] == "assistant" and "</think>" in text else [text]


def texts_of(value: Any) -> Iterator[str]:
    """Every text inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every text inside it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): with_texts(inner, change) for key, inner in value.items()}
    return [with_texts(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def _with_arguments(call: Any, change: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_arguments(call["function"], change)}
    if "arguments" not in call and "name" not in call:
        return call
    return {**call, "arguments": change(call.get("arguments"))}


def _decoded(arguments: Any) -> Any:
    """Arguments from their JSON; no text is none at all, and what is no JSON stays text."""
    if arguments is None or isinstance(arguments, str) and not arguments.strip():
        return {}
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
