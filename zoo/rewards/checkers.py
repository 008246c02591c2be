"""Rewards that compare an answer with the record's reference answer or with a format: 1 for right, 0 for wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.libraries.extras import installed_by, is_missing
from zoo.rewards.functions import in_process
from zoo.rewards.maths import MATH_VERIFY
from zoo.rewards.missing import Missing
from zoo.rewards.quantities import Number, Unclear
from zoo.rewards.readings import read, verdict
from zoo.rewards.references import against, tagged
from zoo.rewards.surroundings import EXPRESSION

Values = list[float | None | Missing]
TAG = re.compile(r"[\w.-]+")


@in_process
def exact(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str = "", tag: str = "",
    ignore_case: bool = False,
) -> Values:  # fmt: skip
    """1 if the answer is the record's reference answer, apart from white space at its ends and between its words.

    field: the column of the reference; tag: look only at the last <tag>…</tag> of the answer.
    """

    def right(text: str, references: list[str]) -> float:
        answer = tagged(text, tag)
        wanted = {_plain(reference, ignore_case) for reference in references}
        return float(answer is not None and _plain(answer, ignore_case) in wanted)

    return against(completions, records, field, right)


def _plain(text: str, ignore_case: bool) -> str:
    text = " ".join(text.split())
    return text.casefold() if ignore_case else text


@in_process
def numeric(
    completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str = "", tag: str = "",
    tolerance: float = 0.0,
) -> Values:  # fmt: skip
    """1 if the answer's number is that of the record's reference answer; tolerance: the largest difference.

    The number of a text is that of its last \\boxed{…}, else the first after its last ####, else the first after its
    last "answer is", else its last one (docs/grading.md). Missing where no one number is meant.
    """
    if tolerance < 0:
        raise ZooError("the tolerance must not be below 0")

    def right(text: str, references: list[str]) -> float | Missing:
        wanted = {reference: read(reference, alone=True) for reference in references}
        numbers = [number for number in wanted.values() if isinstance(number, Number)]
        unread = [Missing(f"the reference answer {_with_remedy(reading or 'holds no number')}: {reference!r:.40}")
                  for reference, reading in wanted.items() if not isinstance(reading, Number)]  # fmt: skip
        if not numbers:
            return unread[0]
        answer = read(tagged(text, tag) or "")
        found = verdict(Unclear(_with_remedy(answer)) if isinstance(answer, Unclear) else answer, numbers, tolerance)
        # It may equal the reference that was not read.
        return unread[0] if unread and answer is not None and found == 0.0 else found

    return against(completions, records, field, right)


def _with_remedy(reason: str) -> str:
    """The reason why a text is not read, with the line that installs what reads it."""
    return f"{reason} ({installed_by(*MATH_VERIFY)})" if reason == EXPRESSION and is_missing(MATH_VERIFY[0]) else reason


def regex(completions: Sequence[str], records: Sequence[Any], pattern: str, whole: bool = False) -> Values:
    """1 if the regular expression matches in the answer; whole: it must match the whole answer."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ZooError(f"the pattern is not a regular expression: {error}") from None
    match = compiled.fullmatch if whole else compiled.search
    return [float(match(text) is not None) for text in completions]


@in_process
def form(
    completions: Sequence[str], records: Sequence[Any], tags: str = "think answer", started: bool = False,
    partial: bool = False,
) -> Values:  # fmt: skip
    """1 if an answer is <think>…</think><answer>…</answer> and nothing else, with no empty part.

    tags: the names of the parts; started: the prompt ends with the first tag; partial: give instead the share of the
    tags (two for each part) that occur exactly once.
    """
    names = tags.replace(",", " ").split()
    if not names or not all(TAG.fullmatch(name) for name in names):
        raise ZooError(f"tags must be names such as 'think answer', not '{tags}'")
    texts = [f"<{names[0]}>{text}" if started else text for text in completions]
    return [_share_of_tags(text, names) if partial else float(_is_formed(text, names)) for text in texts]


def _share_of_tags(text: str, names: Sequence[str]) -> float:
    marks = [mark for name in names for mark in (f"<{name}>", f"</{name}>")]
    return sum(text.count(mark) == 1 for mark in marks) / len(marks)


def _is_formed(text: str, names: Sequence[str]) -> bool:
    if _share_of_tags(text, names) < 1:
        return False
    rest = text.strip()
    for name in names:
        inside, _, after = rest.removeprefix(f"<{name}>").partition(f"</{name}>")
        if not rest.startswith(f"<{name}>") or not inside.strip():
            return False
        rest = after.lstrip()
    return not rest
