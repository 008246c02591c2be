"""Formats for whole conversations, and for instructions as in Alpaca.

In a conversation the last assistant turn is the completion, and everything before it is the prompt.
"""

from __future__ import annotations

from typing import Any, Literal

from zoo.data.formats.message import arrange, messages
from zoo.data.formats.shape import (
    ANSWERS,
    CHATS,
    TEXTS,
    Format,
    Row,
    Sample,
    first_role,
    has_label,
    label,
    take,
    take_text,
)
from zoo.data.kinds import Message
from zoo.data.row_errors import RowError, describe

CHAT_COLUMNS = ("messages", "conversations", "conversation")
# A converted record holds warnings about its row under this key; the loader counts and removes them.
WARNINGS = "__warnings__"


def chat_shape(sample: Sample) -> str:
    """The shape of the first conversation column: "messages", "turns", or "" if there is none."""
    return next((sample.shape(column) for column in CHAT_COLUMNS if sample.has(column, *CHATS)), "")


def has_pair(sample: Sample) -> bool:
    """Whether there are two answers called chosen and rejected."""
    return sample.has("chosen", *ANSWERS) and sample.has("rejected", *ANSWERS)


def pair_holds_prompt(sample: Sample) -> bool:
    """Whether the chosen side begins with the question, so that it is a whole conversation."""
    return sample.mostly(lambda row: first_role(row.get("chosen")) in ("system", "user"))


def split_conversation(row: Row) -> dict[str, Any]:
    """Prompt and completion of a conversation: its last assistant turn that is to be trained."""
    turns = messages(take(row, *CHAT_COLUMNS), "messages")
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise RowError(
            "E_MISSING_TURN",
            "messages",
            "there is no assistant turn (for data that is prompts only: --columns prompt=messages)",
        )
    trained = [index for index in answers if turns[index].get("train", True)]
    if not trained:
        raise RowError("E_NO_SUPERVISED_TOKENS", "messages", "every assistant turn says that it is not trained")
    last = trained[-1]
    record = arrange(row, turns[:last], {"completion": [turns[last]]})
    if last + 1 < len(turns):
        which = "answer" if last == answers[-1] else "trained answer"
        reason = f"{len(turns) - last - 1} turn(s) after the last {which} are not used"
        record[WARNINGS] = [("W_TRAILING_TURNS", "messages", reason)]
    return record


def _conversation_feedback(row: Row) -> dict[str, Any]:
    return {**split_conversation(row), "label": label(row)}


def _conversation_pair(row: Row) -> dict[str, Any]:
    return arrange(
        row,
        messages(take(row, *CHAT_COLUMNS), "messages"),
        {"chosen": take(row, "chosen"), "rejected": take(row, "rejected")},
    )


Join = Literal["paragraph", "line"]
"""The separator between instruction and input: an empty line, or one line break as in LLaMA-Factory."""


def _instruction(row: Row, join: Join) -> str | list[Message]:
    """The question of an Alpaca row: instruction and input, after the earlier exchanges."""
    question = take_text(row, "instruction")
    input_text = row.get("input")
    if isinstance(input_text, str) and input_text.strip():
        question += ("\n\n" if join == "paragraph" else "\n") + input_text
    history = row.get("history") or []
    if not history:
        return question
    turns: list[Message] = []
    for index, exchange in enumerate(history if isinstance(history, list) else [history]):
        texts = [text for text in exchange if isinstance(text, str)] if isinstance(exchange, list) else []
        if len(texts) != 2 or len(exchange) != 2:
            raise RowError("E_TYPE", f"history[{index}]", f"is {describe(exchange)}, not a question and an answer")
        turns += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    return [*turns, {"role": "user", "content": question}]


def _alpaca(row: Row, join: Join = "paragraph") -> dict[str, Any]:
    return arrange(row, _instruction(row, join), {"completion": take(row, "output")})


def _alpaca_feedback(row: Row, join: Join = "paragraph") -> dict[str, Any]:
    return {**_alpaca(row, join), "label": label(row)}


def _alpaca_pair(row: Row, join: Join = "paragraph") -> dict[str, Any]:
    return arrange(row, _instruction(row, join), {"chosen": take(row, "chosen"), "rejected": take(row, "rejected")})


def _is_chat(sample: Sample, shape: str) -> bool:
    return chat_shape(sample) == shape and not has_pair(sample)


def _is_alpaca(sample: Sample) -> bool:
    return sample.has("instruction", *TEXTS) and sample.has("output", *TEXTS) and not has_pair(sample)


_ALPACA = ("instruction", "input", "history")

CONVERSATION_FORMATS = (
    Format(
        "messages",
        "demonstration",
        "messages: a list of {role, content}, the last assistant turn being the answer",
        CHAT_COLUMNS,
        lambda s: _is_chat(s, "messages") and not has_label(s),
        split_conversation,
    ),
    Format(
        "messages-feedback",
        "feedback",
        "messages: a list of {role, content}; label: true or false",
        (*CHAT_COLUMNS, "label", "kto_tag"),
        lambda s: _is_chat(s, "messages") and has_label(s),
        _conversation_feedback,
    ),
    Format(
        "sharegpt",
        "demonstration",
        "conversations: a list of {from, value}; maybe system, tools",
        CHAT_COLUMNS,
        lambda s: _is_chat(s, "turns") and not has_label(s),
        split_conversation,
    ),
    Format(
        "sharegpt-feedback",
        "feedback",
        "conversations: a list of {from, value}; label: true or false",
        (*CHAT_COLUMNS, "label", "kto_tag"),
        lambda s: _is_chat(s, "turns") and has_label(s),
        _conversation_feedback,
    ),
    Format(
        "sharegpt-preference",
        "preference",
        "conversations (or messages): the turns of the prompt; chosen, rejected: one turn each",
        (*CHAT_COLUMNS, "chosen", "rejected"),
        lambda s: bool(chat_shape(s)) and has_pair(s) and not s.has("prompt") and not pair_holds_prompt(s),
        _conversation_pair,
    ),
    Format(
        "alpaca",
        "demonstration",
        "instruction, output: texts; maybe input, system, history",
        (*_ALPACA, "output"),
        lambda s: _is_alpaca(s) and not has_label(s),
        _alpaca,
    ),
    Format(
        "alpaca-feedback",
        "feedback",
        "instruction, output: texts; label: true or false",
        (*_ALPACA, "output", "label", "kto_tag"),
        lambda s: _is_alpaca(s) and has_label(s),
        _alpaca_feedback,
    ),
    Format(
        "alpaca-preference",
        "preference",
        "instruction: text; chosen, rejected: answers; maybe input",
        (*_ALPACA, "chosen", "rejected"),
        lambda s: s.has("instruction", *TEXTS) and has_pair(s),
        _alpaca_pair,
    ),
)
