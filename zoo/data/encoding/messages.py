"""Messages in the form that chat templates expect, and the texts that must reappear in what a template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from zoo.data.kinds import Message
from zoo.data.row_errors import RowError

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_GAP = re.compile(r"\A(?:\s*\n)?(?: (?!\s))?")
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def prepared(messages: list[Message]) -> list[Message]:
    """The messages without null values, each with a content, and with the arguments of tool calls as objects.

    Templates print null as `None`, fail on a missing content, and write JSON text as a quoted string.
    """
    result = []
    for turn in messages:
        turn = {"content": "", **{key: value for key, value in turn.items() if value is not None}}
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


def called(turn: Message) -> list[str]:
    """Names of the functions that a turn calls."""
    return tool_names(turn.get("tool_calls"))


def reasoning_of(turn: Message) -> str:
    """The reasoning before an answer, from a key of its own or between <think> tags; empty if there is none."""
    for key in _REASONING_KEYS:
        if isinstance(turn.get(key), str):
            return str(turn[key]).strip()
    match = _THOUGHT.search(turn["content"])
    return match.group(1).strip() if match else ""


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


def _with_arguments(call: Any, change: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_arguments(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if "arguments" in call else call


def _decoded(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
