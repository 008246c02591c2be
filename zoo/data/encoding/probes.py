"""What a chat template is tried with when it is loaded, and what its answers tell: its form, and what closes a turn."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

PROBE = "Seventeen."
QUESTION = {"role": "user", "content": "What is eight and nine?"}
NAME = "sum_of_numbers"
TOOL = {"type": "function", "function": {"name": NAME, "description": "Adds.", "parameters": {
    "type": "object", "properties": {"first": {"type": "integer", "description": "A number."}}, "required": ["first"],
}}}  # fmt: skip
CALL = {"type": "function", "id": "123456789", "function": {"name": NAME, "arguments": {"first": 8}}}
"""What a template is tried with."""


class Form(NamedTuple):
    """How a template wants to be asked. parts: contents as lists of parts; tools: those that it needs at least."""

    parts: bool = False
    tools: list[Any] | None = None


def closings(tokens: re.Pattern[str], tail: str, followed: str) -> list[int]:
    """The ends of the tokens that close a turn. tail, followed: the text behind the last answer, and behind another.

    They are the first token in the tail and those that touch it, or stand behind it in both texts: some templates end
    every text with another token.
    """
    ends: list[int] = []
    for match in tokens.finditer(tail):
        gap = tail[ends[-1] : match.start()] if ends else ""
        alike = followed.startswith(tail[: match.end()])
        if gap.strip() or ends and not alike and (gap or followed.startswith(tail[: ends[-1]])):
            break
        ends.append(match.end())
    return ends
