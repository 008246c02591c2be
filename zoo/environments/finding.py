"""Finds the shape of calls in what a chat template writes for one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from zoo.environments.shapes import TAG, Named, Objects, Pairs, Python, Shape, Types, Unreadable

_TAG, _WORD = TAG.pattern, r"[^\s<>\[\]{}]+"
_LAST = re.compile(rf"(?:(?:{_TAG}){_WORD}(?:{_TAG})|(?:{_TAG})?{_WORD}|{_TAG}|<[^<>\n]*)\Z")
NAME = "zqnameqz"
KEYS, VALUES = ("zqfirstqz", "zqnextqz"), ("zqoneqz", "zqtwoqz")


class Written(Protocol):
    """What a template writes for a turn with one call. Raises what the template raises."""

    def __call__(self, name: str, arguments: Mapping[str, str]) -> str:
        """The text of the turn."""


def shapes_of(written: Written, types: Types) -> Iterator[Shape]:
    """The shapes that calls of a template may have, with the words that stand around the parts of its calls.

    types: of parameters, by tool.
    """
    text, empty = written(NAME, dict(zip(KEYS, VALUES, strict=True))), written(NAME, {})
    if NAME not in text or NAME not in empty:
        return
    yield from _objects(text)
    for place in (match.start() for match in re.finditer(NAME, text)):
        head, rest = last_tag(text[:place]), text[place + len(NAME) :]
        spots = [rest.find(word) for pair in zip(KEYS, VALUES, strict=True) for word in pair]
        if head and spots[0] > 0 and spots == sorted(spots):
            k1, v1, k2, v2 = spots
            first, middle = rest[:k1], rest[k1 + len(KEYS[0]) : v1]
            then, last = rest[v1 + len(VALUES[0]) : k2], rest[v2 + len(VALUES[1]) :]
            yield from _named(head, rest, first, middle, last)
            none = empty[empty.rindex(NAME) + len(NAME) :]
            yield Pairs(head, "", first, middle, then, _to_tag(last), _to_tag(none), types)
    if (start := text.rfind("[", 0, text.index(NAME))) >= 0 and f"{NAME}(" in text:
        yield Python(last_tag(text[:start]), _first_tag(text[text.rindex("]") + 1 :]))


def _objects(text: str) -> Iterator[Shape]:
    for match in re.finditer(r"[\[{]", text[: text.index(NAME)]):
        try:
            _, end = Objects("", "").read(text, match.start())
        except Unreadable:
            continue
        yield Objects(last_tag(text[: match.start()]), _first_tag(text[end:]))
        return


def _named(head: str, rest: str, first: str, middle: str, last: str) -> Iterator[Shape]:
    """first: between the name and the first key; middle: between a key and its value; last: behind the last value."""
    between = first[: first.find("{")]
    tags = [tag for tag in TAG.findall(between) if tag != "```"]
    before = tags[-1] if tags else between
    try:
        _, end = json.JSONDecoder().raw_decode(rest, len(between))
        yield Named(head, _first_tag(rest[end:]), before)
    except ValueError:
        if quote := middle.strip(": "):
            yield Named(head, _first_tag(last.removeprefix(quote).removeprefix("}")), before, quote)


def last_tag(text: str) -> str:
    """The last tag of a text, or its last word, with the word and the tag that touch it."""
    found = _LAST.search(text.rstrip())
    return found.group() if found else ""


def _first_tag(text: str) -> str:
    """The tag that a text begins with."""
    found = TAG.match(text.strip())
    return found.group() if found else ""


def _to_tag(text: str) -> str:
    """A text up to its first tag, with it."""
    found = TAG.search(text)
    return text[: found.end()] if found else text
