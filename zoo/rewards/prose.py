"""Counts words, sentences and paragraphs of an answer as a reader would.

These are rules, not a model: abbreviations, initials, decimal points, ellipses, quoted exclamations and list numbers do
not end a sentence; a line break always does. Standard library only.
"""

from __future__ import annotations

import re

ABBREVIATIONS = frozenset(
    (
        "dr", "mr", "mrs", "ms", "prof", "st", "mt", "jr", "sr", "vs", "e.g", "i.e", "cf", "no", "fig",
        "approx", "dept", "est", "inc", "ltd", "co",
    )
)  # fmt: skip
"""A full stop after one of these never ends a sentence (unless the text ends there)."""
LATE_ABBREVIATIONS = frozenset(["etc", "a.m", "p.m", "u.s", "u.k"])
"""A full stop after one of these ends a sentence only if the next word is capitalised."""

# All of these take time in proportion to the text, whatever a model writes: a run of stops is looked at once.
STOP = re.compile(r"(?<![.!?…])([.!?…]++)([\"'”’)\]*]*+)(?=\s|$)")
NEXT = re.compile(r"\S")
LIST_NUMBER = re.compile(r"\d+")
INITIALS = re.compile(r"[a-z](?:\.[a-z])*")


def has_content(text: str) -> bool:
    """Whether the text holds at least one letter or digit."""
    return any(character.isalnum() for character in text)


def words(text: str) -> list[str]:
    """The parts between white space that hold a letter or digit: "well-known" and "3.5" are one word each."""
    return [part for part in text.split() if has_content(part)]


def sentences(text: str) -> list[str]:
    """The sentences of a text. A line break ends a sentence too, so a heading or a list item counts."""
    return [sentence for line in text.splitlines() for sentence in _sentences_of_line(line)]


def _sentences_of_line(line: str) -> list[str]:
    sentences, start = [], 0
    for match in STOP.finditer(line):
        if not _ends_sentence(line, start, match):
            continue
        sentences.append(line[start : match.end()].strip())
        start = match.end()
    sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if has_content(sentence)]


def _ends_sentence(line: str, start: int, match: re.Match[str]) -> bool:
    """Whether the stop at `match` closes the sentence that began at `start`."""
    found = NEXT.search(line, match.end())
    if not found:
        return True
    following, before = found[0], line[start : match.start()].rsplit(maxsplit=1)
    last = before[-1].strip("(\"'“‘*").lower() if before else ""
    goes_on = following.islower()
    stop, closing = match.groups()
    if goes_on and (closing or len(stop) > 1 or stop == "…"):
        # '"Stop!" he said', 'well... maybe'
        return False
    if stop != ".":
        return True
    if len(before) == 1 and LIST_NUMBER.fullmatch(last):
        # The marker of a list item is not a sentence of its own.
        return False
    if last in LATE_ABBREVIATIONS:
        return not goes_on
    # "J. Smith", "J.K. Rowling"
    is_initial = INITIALS.fullmatch(last) is not None and last != "i" and before[-1].isupper()
    if last in ABBREVIATIONS or is_initial:
        # "no" is an abbreviation only before a number ("No. 5"); otherwise "I said no." would never end.
        return last == "no" and not following.isdigit()
    return True


def paragraphs(text: str) -> list[str]:
    """The parts with content between blank lines."""
    return [part for part in re.split(r"\n\s*\n", text) if has_content(part)]
