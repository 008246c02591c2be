"""What stands around a number and makes it a part of something else: "3 to 5", "2x", "not 5", "half of 10"."""

from __future__ import annotations

import re
from dataclasses import replace

from zoo.rewards.quantities import Found, Number, Unclear
from zoo.rewards.references import BOX

LETTER = "[b-zB-HJ-Z]"
"""A variable; a and I are words."""
CHOICE = re.compile(
    r"-|,? *\(?(?:or|and/or)(?: (?:maybe|perhaps|possibly|else|even|rather))* *| *(?:to|~|\.\.+) *", re.IGNORECASE
)
OR = re.compile(r"\bor(?: (?:maybe|perhaps|possibly|else|even|rather))* *$", re.IGNORECASE)
BOTH = re.compile(r"(?:,| &|,? and| \|) ?|;? ", re.IGNORECASE)
"""Between two answers."""
NEGATED = re.compile(
    r"(?:\b(?:not|never|no longer|nor|neither|cannot be)|n['’]t(?: be)?)(?: (?:be|just|only|equal to))? ?$", re.I
)
OF = re.compile(
    r"(?:(?<![a-zA-Z])[a-zA-Z]+\(|\b(?:(?:root|square|cube|power|factorial|half|third|quarter|reciprocal|inverse|multiple)"
    r" of|sqrt|twice|thrice|double|triple)[ {]) ?$",
    re.IGNORECASE,
)
"""In front of a number that a function is of."""
IN_WORD = re.compile(r"[^\W\d_]{2,}-$")
OPERATOR = re.compile(r" *[+*×·÷/x±] *| +- *| *- +", re.IGNORECASE)
BEFORE = re.compile(
    rf"(?:[\^×·÷/√±≤≥∞{{]|(?<![-=\s>]) ?[<>]=?|\\[a-zA-Z]+|(?:(?<![a-zA-Z]){LETTER}|[\d)\]}}]) ?[-+*]) ?[({{]? ?$"
)
BEHIND = re.compile(
    rf" ?(?:[\^√π∞±×·÷]|\\[a-zA-Z]|[-+*/] ?(?:{LETTER}(?!\w)|[\d(\\√π])|{LETTER}(?![a-zA-Z'])|!(?= *[-+*/=]))|\("
)
"""What makes a number a part of an expression."""
EXPRESSION = Unclear("is an expression; the reward maths reads these")
RANGE = Unclear("is a range, a choice or a difference")
SEVERAL = Unclear("holds several numbers")
PORTIONS = Unclear("has a fraction in words")
PORTION = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|dozens?)\b", re.I
)
"""Words for parts and dozens, which are not read."""
MORE = re.compile(
    rf"(?: and)? an?[ -]{PORTION.pattern}|[ -](?:half|halves|thirds|quarters?|fourths|fifths|sixths"
    r"|sevenths|eighths|ninths|tenths|hundredths|thousandths)\b",
    re.IGNORECASE,
)
"""Behind a number of which it makes another one."""


def clear(text: str, values: list[Found], i: int) -> Number | Unclear:
    """A value of a text, unless what stands around it makes it a part of something else."""
    start, end, value, signed = values[i]
    if isinstance(value, Unclear):
        return value
    if i == 0 and len(values) > 1 and BOTH.fullmatch(text[end : values[1].start]):
        return joint(text, values, 1) or SEVERAL
    for k in (i, i + 1):
        if 0 < k < len(values) and (found := joint(text, values, k)):
            return found
    before, behind = text[max(0, start - 40) : start], text[end : end + 40]
    if re.search(rf"{BOX.pattern} ?$", before):
        return Unclear("stands in a box that is not closed")
    if NEGATED.search(before) or before.rstrip().endswith("≠"):
        return Unclear("is negated")
    if OF.search(before):
        return Unclear("is what a function or a share is of")
    if MORE.match(behind):
        return PORTIONS
    if signed and before[-1:] in ("-", "+"):
        return EXPRESSION
    if IN_WORD.search(before):
        return Unclear("has digits only within words")
    if (
        OF.search(before)
        or BEFORE.search(before)
        or BEHIND.match(behind)
        or (signed and re.search(rf"(?<![a-zA-Z]){LETTER} $", before))
    ):
        return EXPRESSION
    if before[-1:] in ("(", "[") and re.fullmatch(r"\d+,\d+", text[start:end]) and behind[:1] in (")", "]"):
        return SEVERAL
    return negative(value) if not signed and re.search(r"\b(?:minus|negative) $", before, re.IGNORECASE) else value


def negative(value: Number) -> Number:
    return replace(value, written=-value.written, full=None if value.full is None else -value.full)


def joint(text: str, values: list[Found], i: int) -> Unclear | None:
    """Why a value and the one before it are not two numbers: 3-5, 3 or 5, 2 h 30 min, 10 000."""
    before, found = values[i - 1], values[i]
    gap = text[before.end : found.start]
    between = gap == " and " and re.search(r"\bbetween $", text[max(0, before.start - 12) : before.start], re.I)
    if gap.strip() == "^":
        return Unclear("is a power of a power")
    if OPERATOR.fullmatch(gap):
        return EXPRESSION
    is_rise = gap == " to " and _is_share(before) and not _is_share(found)
    if between or OR.search(gap[-40:]) or (CHOICE.fullmatch(gap) and not is_rise) or (gap == " " and found.signed):
        return RANGE
    if gap in ("", "'", "′") and not found.signed:
        return Unclear("has several units")
    if re.fullmatch(" and ", gap, re.IGNORECASE) and not _is_share(before):
        return SEVERAL
    units = [one.value.unit for one in (before, found) if isinstance(one.value, Number) and one.value.unit]
    counted = gap == " " and len(units) == 1 and not text[before.end - 1].isdigit()
    if counted or (gap in (" ", ", ", " and ", "") and len(set(units)) == 2):
        return Unclear("has several units")
    if gap == " " and re.search(r"(?<!\d)\d{1,3} \d{3}(?!\d)", text[max(0, before.end - 4) : found.start + 4]):
        return Unclear("has blanks between its digits, or is two numbers")
    return None


def _is_share(found: Found) -> bool:
    """Whether a value is one of percent."""
    return isinstance(found.value, Number) and found.value.full is not None and found.value.full < found.value.written
