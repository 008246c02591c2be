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
COMPARED = re.compile(
    r"(?:(?<!\bno )\b(?:less|fewer|more|greater|smaller|larger|bigger|higher|lower|longer|shorter|rather|other) than"
    r"|\b(?:instead of|except(?: for)?|all but|excluding|(?:not|unequal)(?: equal)?(?: to)?)) ?$",
    re.IGNORECASE,
)
"""In front of a number that is not the one that is meant."""
OF = re.compile(
    r"(?:(?<![a-zA-Z])[a-zA-Z]+\([^()]*|\b(?:log|ln|sin|cos|tan|exp) |\b(?:(?:root|square|cube|power|factorial|half"
    r"|third|quarter|reciprocal|inverse|multiple) of|sqrt|twice|thrice|double|triple)[ {]) ?$",
    re.IGNORECASE,
)
"""In front of a number that a function is of."""
IN_WORD = re.compile(r"[^\W\d_]{2,}-$")
OPERATOR = re.compile(r" *[+*×·÷/x±] *| +- *| *- +| *\+ ?/ ?- *", re.IGNORECASE)
BETWEEN = re.compile(
    r"(?:st|nd|rd|th)? \(?(?:plus|minus|times|less|multiplied by|divided by|over|mod(?:ulo)?|choose"
    r"|to the(?: power(?: of)?)?|(?:out )?of(?: the)?|in|per|versus|vs\.?|point|dot|comma|remainder|rem\.?|r\.?) ",
    re.IGNORECASE,
)
"""Between two numbers that are one, or one of which is a part of the other."""
THINGS = re.compile(r"(?: [a-z]+){1,2}(?: and|, and|,) ", re.IGNORECASE)
"""Between the numbers of two sorts of things."""
THING = re.compile(
    r" (?!(?:in|all|total|altogether|each|left|remain\w*|are|is|was|were)\b)[a-z]+(?: [a-z]+)?\W*(?:$|\n)", re.I
)
"""Behind the last of them."""
ASSIGNED = re.compile(
    r"(?:^|[\s,;(])[A-Za-z]\w*(?:\([^()]*\))? ?[=:] ?[-+$€£]?\d[^=:,;\n]{0,20}"
    r"(?:[,;]| (?:and|or)) *(?:(?:and|or) )?(?!(?:total|result)\b)[A-Za-z]\w*"
    r"(?:\([^()]*\))? ?[=:] ?$",
    re.IGNORECASE,
)
"""In front of the last one of several values: x = 3 and y = 4."""
ASIDE = re.compile(r"[(\[][^()\[\]]*$")
WORDED = re.compile(
    r" (?:squared|cubed|factorial|doubled|tripled|halved|twice|to the (?:power|[a-z]+ power)|choose|modulo)\b", re.I
)
"""Behind a number that is a part of a calculation."""
DIFFERENCE = re.compile(
    r"(?: [a-z]+)? (?:more|less|fewer|older|younger|taller|shorter|longer|larger|bigger|smaller|greater|higher|lower"
    r"|faster|slower) than\b",
    re.IGNORECASE,
)
"""Behind a number that compares the one before."""
UNDER_ZERO = re.compile(r"-(?![\w>-])|(?: ?°C?| degrees?)? below\b| ?\((?:negative|minus)\)", re.IGNORECASE)
"""Behind a number that may be negative."""
SCALE = re.compile(
    r" ?(?:Tsd|Mio|Mrd|Million(?:en|e|i)|mill?ones|milh(?:ão|ões)|mili(?:one|oni)|Milliard\w*|mill?|grand|score|ppb"
    r"|тыс\w*|млн|млрд|миллион\w*|lac)\b| ?[万萬亿億千百만억]"
)
"""Behind a number, a word that may scale it."""
BEFORE = re.compile(
    rf"(?:[\^×·÷/√∛±≤≥∞{{]|(?<=[^\W_])_|(?<![\w)])[-+]\(|[×x*·] ?10 "
    rf"|(?<![-=\s>]) ?[<>]=?|\\[a-zA-Z]+|(?:(?<![a-zA-Z]){LETTER}|[\d)\]}}]) ?[-+*]) ?[({{]? ?$"
)
BEHIND = re.compile(
    rf" ?(?:[\^√π∞±×·÷]|\\[a-zA-Z]|[-+*/] ?(?:{LETTER}(?!\w)|[\d(\\√π])|{LETTER}(?![a-zA-Z'])|!(?= *[-+*/=]))|\("
    r"|_\d|#\w|[aAI](?!\w)| ?pi\b"
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
    value = values[i].value
    if isinstance(value, Unclear):
        return value
    if i == 0 and len(values) > 1 and BOTH.fullmatch(text[values[0].end : values[1].start]):
        return joint(text, values, 1) or SEVERAL
    for k in (i, i + 1):
        if 0 < k < len(values) and (found := joint(text, values, k)):
            return found
    before, behind = text[max(0, values[i].start - 40) : values[i].start], text[values[i].end : values[i].end + 40]
    if i and DIFFERENCE.match(behind):
        return Unclear("is a difference to another number")
    if (i and _is_aside(text, values, i)) or ASSIGNED.search(text[max(0, values[i].start - 80) : values[i].start]):
        return SEVERAL
    return (
        _spoiled(before, behind)
        or _partial(text, values[i], before, behind)
        or _signed(values[i], value, before, behind)
    )


def _is_aside(text: str, values: list[Found], i: int) -> bool:
    """Whether a value stands in brackets behind another one."""
    before = values[i - 1]
    return before.value != values[i].value and ASIDE.search(text[before.end : values[i].start]) is not None


def _spoiled(before: str, behind: str) -> Unclear | None:
    """Why the words around a number leave open which one is meant."""
    if re.search(rf"{BOX.pattern} ?$", before):
        return Unclear("stands in a box that is not closed")
    if NEGATED.search(before) or before.rstrip().endswith("≠"):
        return Unclear("is negated")
    if COMPARED.search(before):
        return Unclear("is what something is compared with")
    if OF.search(before):
        return Unclear("is what a function or a share is of")
    if MORE.match(behind):
        return PORTIONS
    if WORDED.match(behind) or re.search(r"\b(?:point|dot) $", before, re.IGNORECASE):
        return Unclear("is a part of a calculation in words")
    if SCALE.match(behind):
        return Unclear("has a word for a scale that is not read")
    if UNDER_ZERO.match(behind):
        return Unclear("may be below 0")
    return Unclear("begins with a comma") if re.search(r"(?:^|[^\w)]),$", before) else None


def _partial(text: str, found: Found, before: str, behind: str) -> Unclear | None:
    """Why a number is a part of an expression, of a word or of a list."""
    if found.signed and before[-1:] in ("-", "+"):
        return EXPRESSION
    if IN_WORD.search(before):
        return Unclear("has digits only within words")
    is_between_bars = before[-1:] == "|" and behind[:1] == "|"
    is_taken_away = found.signed and re.search(rf"(?<![a-zA-Z]){LETTER} $", before)
    if is_between_bars or is_taken_away or BEFORE.search(before) or BEHIND.match(behind):
        return EXPRESSION
    is_pair = before[-1:] in ("(", "[") and behind[:1] in (")", "]")
    return SEVERAL if is_pair and re.fullmatch(r"\d+,\d+", text[found.start : found.end]) else None


def _signed(found: Found, value: Number, before: str, behind: str) -> Number:
    """The value with the sign that stands in front of it in words; in brackets it may be negative."""
    if not found.signed and re.search(r"\b(?:minus|negative)\)? $", before, re.IGNORECASE):
        return negative(value)
    is_bracketed = re.search(r"(?:^|[\s$€£])\([$€£]?$", before) and re.match(r"[$€£]?\)\W*$", behind)
    return replace(value, perhaps=-value.written) if is_bracketed else value


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
    if BETWEEN.fullmatch(gap):
        return Unclear("belongs together with another number")
    if re.fullmatch(",? (?:and|&) ", gap, re.IGNORECASE) and not _is_share(before):
        return SEVERAL
    if (gap in (", ", "; ") and _are_enclosed(text, before, found)) or _are_things(text[found.end :], gap):
        return SEVERAL
    units = [one.value.unit for one in (before, found) if isinstance(one.value, Number) and one.value.unit]
    counted = gap == " " and len(units) == 1 and not text[before.end - 1].isdigit()
    if counted or (gap in (" ", ", ", " and ", "") and len(set(units)) == 2):
        return Unclear("has several units")
    if gap == " " and re.search(r"(?<!\d)\d{1,3} \d{3}(?!\d)", text[max(0, before.end - 4) : found.start + 4]):
        return Unclear("has blanks between its digits, or is two numbers")
    return None


def _are_enclosed(text: str, before: Found, found: Found) -> bool:
    return text[: before.start][-1:] in ("(", "[", "{") and text[found.end :][:1] in (")", "]", "}")


def _are_things(behind: str, gap: str) -> bool:
    """Whether two numbers count two sorts of things: 5 apples and 3 pears."""
    return THINGS.fullmatch(gap) is not None and THING.match(behind) is not None


def _is_share(found: Found) -> bool:
    """Whether a value is one of percent."""
    value = found.value
    return isinstance(value, Number) and value.full is not None and value.full < value.written and not value.unit
