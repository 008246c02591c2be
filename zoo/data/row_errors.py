"""What is wrong with a row: a code to count by, the field, and a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CODES = {
    "E_JSON": "the line cannot be read",
    "E_LIMIT": "the row has more columns, characters or depth than is read",
    "E_TYPE": "a column is missing or holds the wrong type",
    "E_EMPTY_RESPONSE": "an answer is empty",
    "E_IDENTICAL_PAIR": "the two answers are the same",
    "E_PROMPT_MISMATCH": "the answers do not belong to the same prompt",
    "E_ROLE": "a role is unknown or out of place",
    "E_MISSING_TURN": "a turn is missing: no question, or no answer to it",
    "E_LABEL": "a label or rank cannot be understood",
    "E_WEIGHT": "a message has a weight other than 0 and 1",
    "E_TEMPLATE": "the chat template cannot render the row, or changes the answer",
    "E_SPECIAL_TOKEN": "a message holds a special token of the model",
    "E_CONTENT_DROPPED": "the chat template leaves out the content of a message",
    "E_CALL_DROPPED": "the chat template leaves out a call, or an argument of it",
    "E_REASONING_DROPPED": "the chat template leaves out the reasoning of the answer",
    "E_NO_SUPERVISED_TOKENS": "no content of an answer is left to train on",
    "E_TOO_LONG": "prompt and answer are longer than max_length",
    "W_TRUNCATED": "an answer was cut to max_length",
    "W_UNTRAINED_TURNS": "turns that the chat template rewrites, empty ones and those of others are not trained",
    "W_REASONING_UNSEEN": "the chat template leaves out the reasoning of earlier turns",
    "W_UNKNOWN_KEYS": "messages have keys that zoo does not know; the chat template gets them",
    "W_TOOLS_UNSEEN": "the chat template does not show the tools to the model",
    "W_CONTROL_TOKENS": "special tokens written in raw text are read as such",
    "W_DUPLICATE": "the row is the same as an earlier one",
    "W_DUPLICATE_KEY": "a JSON object names a key twice; the last value counts",
    "W_TRAILING_TURNS": "turns after the last answer are not used",
}


class RowError(Exception):
    """One row cannot be used: `code` to count by, the `field`, and a `message`."""

    def __init__(self, code: str, field: str, message: str):
        super().__init__(f"[{code}] {field}: {message}")
        self.code, self.field, self.message = code, field, message


def describe(value: Any) -> str:
    """What a value is, in words for an error message."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def describe_row(value: Any) -> str:
    """What stands in the place of a row."""
    return "null" if value is None else describe(value)


def shorten(text: str, width: int = 40) -> str:
    """The beginning of a text, for an error message."""
    return text if len(text) <= width else text[: width - 1] + "…"
