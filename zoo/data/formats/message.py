"""Messages: turns of a conversation in one canonical form, whatever the source calls the roles.

A message becomes `{"role", "content", ...}` with a role of `system`, `user`, `assistant` or `tool`. Roles
come from a closed table, because a chat template prints an unknown role without complaint. Keys with the
value None are removed (Arrow adds them to every message). A call is in `tool_calls`, whatever way the source writes it;
`train` says whether an assistant turn is trained (`weight` 1 or 0 in the source); all other keys, such as
`tool_call_id`, `name` and `reasoning_content`, are kept. The arguments of calls stay a string or an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo.data.kinds import RESERVED_ARGS, ROW_ARGS, Message
from zoo.data.row_errors import RowError, describe
from zoo.errors import nearest

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "tool_response": "tool",
}
_CALL_ROLES = ("function_call", "tool_call")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The keys in which a message may have its thoughts."""
KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "train", *REASONING_KEYS)
"""The keys of a message that zoo knows; a chat template gets the others too."""


def message(turn: Any, field: str) -> Message:
    """One turn, as {role, content} or {from, value}, in canonical form. Raises RowError."""
    if _is_canonical(turn):
        return turn
    if not isinstance(turn, Mapping):
        raise RowError("E_TYPE", field, f"is {describe(turn)}, not a message with role and content")
    turn = {key: value for key, value in turn.items() if value is not None}
    role = turn.pop("role", None) or turn.pop("from", None)
    if role is None:
        raise RowError("E_ROLE", field, "the message has no role")
    spelling = role.strip().lower() if isinstance(role, str) else ""
    if spelling not in ROLES:
        raise RowError(
            "E_ROLE", field, f"unknown role {role!r}.{nearest(spelling, ROLES)} Known roles: {', '.join(ROLES)}"
        )
    content = turn.pop("content") if "content" in turn else turn.pop("value", "")
    calls = [
        *_listed_calls(turn.pop("tool_calls", None), field),
        *_function_calls(turn.pop("function_call", None), field),
    ]
    if calls:
        turn["tool_calls"] = calls
    trained = _trained(turn, field)
    if trained or trained is False and ROLES[spelling] == "assistant":
        turn["train"] = trained
    if spelling in _CALL_ROLES:
        return {"role": "assistant", "content": "", "tool_calls": _function_calls(content, field), **turn}
    text, reasoning = _content_text(content, field)
    reasoning = reasoning or _details_text(turn)
    if reasoning:
        turn.setdefault("reasoning_content", reasoning)
    return {"role": ROLES[spelling], "content": text, **turn}


def _is_canonical(turn: Any) -> bool:
    """Whether the turn is canonical already. Most turns of most files are, and files are long."""
    return (
        type(turn) is dict
        and len(turn) == 2
        and turn.get("role") in ("user", "assistant", "system")
        and type(turn.get("content")) is str
    )


def _content_text(content: Any, field: str) -> tuple[str, str]:
    """The content as text, and the reasoning from a part of its own."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise RowError("E_TYPE", field, f"the content is {describe(content)}, not text")
    texts: list[str] = []
    reasonings: list[str] = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = (
            next((part[key] for key in ("text", "value", "content") if isinstance(part.get(key), str)), None)
            if isinstance(part, Mapping)
            else None
        )
        if kind not in ("text", "reasoning", "thinking") or text is None:
            raise RowError("E_TYPE", field, f"the content has a part of type {kind!r}; only text can be used")
        (texts if kind == "text" else reasonings).append(text)
    return "".join(texts), "".join(reasonings)


def _details_text(turn: Message) -> str:
    """The thoughts in `reasoning_details` of a turn that has no others; encrypted ones have no text."""
    details = turn.get("reasoning_details")
    if not isinstance(details, list) or any(turn.get(key) for key in REASONING_KEYS):
        return ""
    parts = [part for part in details if isinstance(part, Mapping)]
    texts = [next((part[key] for key in ("text", "summary") if isinstance(part.get(key), str)), "") for part in parts]
    if texts := [text for text in texts if text]:
        del turn["reasoning_details"]
    return "\n".join(texts)


def _decoded(value: Any, field: str) -> Any:
    """A value, from JSON if it is text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise RowError("E_TYPE", field, f"a function call must be JSON, got {describe(value)}") from None


def _listed_calls(value: Any, field: str) -> list[Any]:
    """The calls of `tool_calls`: a list of them, one, or the JSON of either."""
    if not value or isinstance(value, str) and not value.strip():
        return []
    calls = _decoded(value, field)
    calls = [_decoded(call, field) for call in (calls if isinstance(calls, list) else [calls])]
    if not all(isinstance(call, Mapping) for call in calls):
        raise RowError("E_TYPE", field, f"tool_calls is {describe(value)}, not a list of calls")
    return calls


def _function_calls(content: Any, field: str) -> list[dict[str, Any]]:
    """The calls in `function_call`, a key or a role: one {name, arguments}, a list of them, or the JSON of either."""
    if content is None:
        return []
    calls = _decoded(content, field)
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise RowError("E_TYPE", field, "a function call needs a name and arguments")
    return [{"type": "function", "function": dict(call)} for call in calls]


def _trained(turn: Message, field: str) -> bool | None:
    """Whether a turn is marked as trained, by `train` or `weight`, which are taken out of it; None without a mark."""
    marks = {key: turn.pop(key) for key in ("train", "weight") if key in turn}
    for key, value in marks.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise RowError("E_WEIGHT", field, f"{key} is {describe(value)}; a turn counts whole (1) or not at all (0)")
    if len({bool(value) for value in marks.values()}) > 1:
        raise RowError("E_WEIGHT", field, "train and weight say different things")
    return bool(next(iter(marks.values()))) if marks else None


def unknown_keys(record: Mapping[str, Any]) -> list[str]:
    """The keys in the messages of a record that nothing here reads, in order."""
    fields = [record.get(name) for name in ("prompt", "completion", "chosen", "rejected")]
    several = record.get("completions")
    lists = [value for value in (*fields, *(several if isinstance(several, list) else ())) if isinstance(value, list)]
    turns = [turn for value in lists for turn in value if isinstance(turn, Mapping) and "role" in turn]
    return sorted({str(key) for turn in turns if len(turn) > 2 for key in turn if key not in KEYS})


def messages(value: Any, field: str) -> list[Message]:
    """A list of turns, or a single one, in canonical form. Raises RowError."""
    if isinstance(value, Mapping):
        return [message(value, field)]
    if not isinstance(value, list):
        raise RowError("E_TYPE", field, f"is {describe(value)}, not a list of messages")
    return [message(turn, f"{field}[{index}]") for index, turn in enumerate(value)]


def text_or_messages(value: Any, field: str) -> str | list[Message]:
    """A string as it is, messages in canonical form. Raises RowError for anything else."""
    if value is None:
        raise RowError("E_TYPE", field, "is missing")
    if isinstance(value, str):
        return value
    if isinstance(value, list | Mapping):
        return messages(value, field)
    raise RowError("E_TYPE", field, f"is {describe(value)}, not text or a list of messages")


def as_messages(value: str | list[Message], role: str) -> list[Message]:
    """A string becomes one turn of that role."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def tools(value: Any) -> list[Any]:
    """Tool schemas as a list, from a list, one schema, or the JSON of either."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError as error:
            raise RowError("E_TYPE", "tools", f"is not JSON: {error}") from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowError("E_TYPE", "tools", f"is {describe(value)}, not a list of tool schemas")
    return value


def template_args(value: Any) -> dict[str, Any]:
    """The variables of the chat template for one row, from an object or its JSON, without null values."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError as error:
            raise RowError("E_TYPE", ROW_ARGS, f"is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise RowError("E_TYPE", ROW_ARGS, f"is {describe(value)}, not an object with variables of the chat template")
    for name in value:
        if name in RESERVED_ARGS or not str(name).isidentifier():
            raise RowError("E_TYPE", ROW_ARGS, f"cannot set {name!r}")
    return {name: item for name, item in value.items() if item is not None}


def arrange(row: Mapping[str, Any], prompt: Any, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt and answers as one type, text or messages, with every turn before the answers in the prompt.

    `answers` maps the field's name to its raw value. A `system` column becomes the first turn. If the answers
    repeat the prompt, it is removed from them. If they hold several exchanges, all but the last move to the prompt,
    and must be equal in all answers. `prompt` None means that only the answers hold it. Raises RowError.
    """
    parsed = {field: text_or_messages(value, field) for field, value in answers.items()}
    start = [] if prompt is None else text_or_messages(prompt, "prompt")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise RowError("E_TYPE", "system", f"is {describe(system)}, not text")
    has_system = bool(system and system.strip())
    if isinstance(start, str) and not has_system and all(isinstance(value, str) for value in parsed.values()):
        return {"prompt": start, **parsed}
    turns = as_messages(start, "user")
    turns, tails = _move_shared_turns(
        turns, {field: as_messages(value, "assistant") for field, value in parsed.items()}
    )
    if has_system and not any(turn["role"] == "system" for turn in turns):
        turns = [{"role": "system", "content": system}, *turns]
    return {"prompt": turns, **tails}


def _move_shared_turns(
    prompt: list[Message], answers: dict[str, list[Message]]
) -> tuple[list[Message], dict[str, list[Message]]]:
    """Cut every answer after its last user or system turn; the turns before the cut, if equal, join the prompt."""
    cuts = {
        field: max((index + 1 for index, turn in enumerate(turns) if turn["role"] in ("user", "system")), default=0)
        for field, turns in answers.items()
    }
    if not any(cuts.values()):
        return prompt, answers
    leads = [turns[: cuts[field]] for field, turns in answers.items()]
    first_field = next(iter(answers))
    if any(lead != leads[0] for lead in leads):
        raise RowError(
            "E_PROMPT_MISMATCH", first_field, f"the turns before the answers differ between {' and '.join(answers)}"
        )
    lead = leads[0]
    if lead[0]["role"] in ("assistant", "tool"):
        prompt = prompt + lead
    elif not prompt or lead[: len(prompt)] == prompt or _same_question(prompt, lead):
        prompt = lead
    else:
        raise RowError("E_PROMPT_MISMATCH", first_field, "begins with turns that are not those of the prompt")
    return prompt, {field: turns[cuts[field] :] for field, turns in answers.items()}


def _same_question(prompt: list[Message], lead: list[Message]) -> bool:
    """Whether a prompt of one turn is the question that the answer repeats, with or without a system turn."""
    questions = [turn["content"].strip() for turn in lead if turn["role"] == "user"]
    return len(prompt) == 1 and prompt[0]["content"].strip() in (questions[:1] + questions[-1:])
