"""Rewards that compare an answer with the record's reference answer or with a format: 1 for right, 0 for wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.rewards.functions import in_process
from zoo.rewards.missing import Missing
from zoo.rewards.references import against, boxed, tagged

Values = list[float | None | Missing]
# A sign belongs to a number if no word or bracket precedes it: 10-5 ends in 5.
NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
)
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

    The number of a text is the last in its last \\boxed{…}, else the first after its last ####, else its last one.
    """
    if tolerance < 0:
        raise ZooError("the tolerance must not be below 0")

    def right(text: str, references: list[str]) -> float | Missing:
        wanted = [number for number in map(number_of, references) if number is not None]
        if not wanted:
            return Missing(f"the reference answer holds no number: {references[0]!r:.40}")
        answer = number_of(tagged(text, tag) or "")
        return float(
            answer is not None
            and any(math.isclose(answer, number, rel_tol=1e-9, abs_tol=tolerance) for number in wanted)
        )

    return against(completions, records, field, right)


def number_of(text: str) -> float | None:
    """The final number of a text: 42 of "#### 42", 1250 of "so $1,250.", −3 of "\\boxed{-3}"."""
    for separator in ("{,}", "\\,"):
        text = text.replace(separator, ",")
    inside = boxed(text)
    _, marked, after = text.rpartition("####")
    for part, which in ((inside, -1), (after if marked else None, 0), (text, -1)):
        if part is not None and (numbers := NUMBER.findall(part)):
            number = float(numbers[which].replace(",", "").replace("\u2212", "-"))
            return number if math.isfinite(number) else None
    return None


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
