"""The reward of the online comparison, for either program: the share of an answer's words that are not repeated."""

from __future__ import annotations

from typing import Any


def variety(texts: list[str], records: list[dict[str, Any]]) -> list[float]:
    """From above 0, all words the same, to 1, all different; 0 for an answer without words."""
    words = [text.split() for text in texts]
    return [len(set(found)) / max(1, len(found)) for found in words]


def variety_of_chats(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """The same, as TRL calls it."""
    return variety([chat[0]["content"] for chat in completions], [])
