"""The number that a text means: 42 of "#### 42", −1250.5 of "so -$1,250.50.", ½ of "\\boxed{\\frac{1}{2}}".

Its place tells which number is meant (`read`). What stands around a number can make it unclear: "3 to 5", "2x".
docs/grading.md has the rules, and a hundred examples, which a test grades.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from zoo.rewards.missing import Missing, Undecided
from zoo.rewards.plain_text import plain
from zoo.rewards.quantities import LARGEST, MEANINGS, SCALES, Found, Number, Unclear, values_of
from zoo.rewards.references import BOX, boxed

Reading = Number | Unclear | None
"""None: a text without a number."""
NEAR = Fraction(1, 10**9)
"""By how much of their size equal numbers may differ."""
LETTER = "[b-zB-HJ-Z]"
"""A variable; a and I are words."""
CHOICE = re.compile(
    r"-|,? *\(?(?:or|and/or)(?: (?:maybe|perhaps|possibly|else|even|rather))* *| *(?:to|~|\.\.+) *", re.IGNORECASE
)
OR = re.compile(r"\bor(?: (?:maybe|perhaps|possibly|else|even|rather))* *$", re.IGNORECASE)
BOTH = re.compile(r"(?:,| &|,? and| \|) ?|;? ", re.IGNORECASE)
"""Between two answers."""
BOXES = re.compile(r"\}[\s$]*(?:[,;]|[,;]?\s*(?:or|and))[\s$]*$", re.IGNORECASE)
"""Between two boxes."""
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
CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|oops|scratch that|I mean|no,)", re.IGNORECASE)
OPERATOR = re.compile(r" *[+*×·÷/x±] *| +- *| *- +", re.IGNORECASE)
BEFORE = re.compile(
    rf"(?:[\^×·÷/√±≤≥∞{{]|(?<![-=\s>]) ?[<>]=?|\\[a-zA-Z]+|(?:(?<![a-zA-Z]){LETTER}|[\d)\]}}]) ?[-+*]) ?[({{]? ?$"
)
BEHIND = re.compile(
    rf" ?(?:[\^√π∞±×·÷]|\\[a-zA-Z]|[-+*/] ?(?:{LETTER}(?!\w)|[\d(\\√π])|{LETTER}(?![a-zA-Z'])|!(?= *[-+*/=]))|\("
)
"""What makes a number a part of an expression."""
LEFT_OVER = re.compile(r"[\^√π∞±≤≥≠<>×÷∪|]|\\[a-zA-Z]+")
EXPRESSION = Unclear("is an expression; the reward maths reads these")
RANGE = Unclear("is a range, a choice or a difference")
SEVERAL = Unclear("holds several numbers")
PORTIONS = Unclear("has a fraction in words")
ANSWER_IS = re.compile(
    r"\banswer\b(?: to [^.\n]{1,80}?)?[\s*_]*"
    r"(?:\b(?:is|was|equals|would be|will be)(?P<not>n['’]t\b|\s+(?:not|no longer|never)\b)?(?!\w)|:|=)",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[.;!?](?=\s|$)|\n")

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
ONES = {word: i for i, word in enumerate(f"{SMALL} eighteen nineteen".split())}
TENS = {word: 10 * i for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
WORD = "|".join(sorted([*ONES, *TENS, "hundred", *SCALES], key=len, reverse=True))
SPELLED = re.compile(rf"\b(?:{WORD})\b(?:(?:-|\s+(?:and\s+)?)(?:{WORD})\b)*", re.IGNORECASE)
ROMAN = re.compile(r"\W*[IVXLCDM]{2,}\W*")
BRIEFLY_ONE = re.compile(r"\W*one(?:\W+\w+){0,2}\W*$", re.IGNORECASE)
"""In a sentence "one" is a pronoun."""
PORTION = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|dozens?)\b", re.I
)
"""Words that this module does not read."""
SHARE = re.compile(r"\b(?:half|halves|quarters|thirds|fourths|fifths|dozens?)\b", re.IGNORECASE)
"""Those that are numbers by themselves."""
MORE = re.compile(
    rf"(?: and)? an?[ -]{PORTION.pattern}|[ -](?:half|halves|thirds|quarters?|fourths|fifths|sixths"
    r"|sevenths|eighths|ninths|tenths|hundredths|thousandths)\b",
    re.IGNORECASE,
)
"""Behind a number of which it makes another one."""
CLOCK = re.compile(r"\b(?:noon|midday|midnight|o['’]clock|(?:half|quarter) (?:past|to))\b", re.IGNORECASE)


def read(text: str, alone: bool = False) -> Reading:
    """The number in a text's last box, else behind its last ####, else behind its last "answer is", else its last one.

    alone: a text without these marks should hold one number, as a reference does; else it is unclear.
    """
    if (inside := boxed(text)) is not None:
        return SEVERAL if _two_boxes(text) else _only(plain(inside))
    text = plain(text)
    if (clause := _hashed(text)) is not None and (found := _first(clause)) is not None:
        return found
    if (found := _announced(text)) is not None:
        return found
    return _only(text) if alone else _last(text)


def number_of(text: str) -> float | None:
    """The number that a text means, as it is written; None if it means no one number."""
    found = read(text)
    is_number = isinstance(found, Number) and found.kind == "number" and abs(found.written) < LARGEST
    return float(found.written) if isinstance(found, Number) and is_number else None


def same(answer: Number, reference: Number, tolerance: float = 0.0) -> bool | Unclear:
    """Whether two numbers are equal. If only one of them says percent, million or pm, it may be read without it too."""
    if answer.kind != reference.kind:
        return Unclear(f"is a {answer.kind} and the reference answer a {reference.kind}")
    if answer.unit and reference.unit and not _meanings(answer.unit) & _meanings(reference.unit):
        return Unclear("has another unit than the reference answer")
    pairs = [tuple(one.written if one.full is None else one.full for one in (answer, reference))]
    if (answer.full is None) != (reference.full is None):
        pairs.append((answer.written, reference.written))
    return any(_close(a, b, tolerance) for a, b in pairs)


def _meanings(unit: str) -> set[str]:
    return {unit, *MEANINGS.get(unit, ())}


def verdict(answer: Reading, references: Sequence[Number], tolerance: float = 0.0) -> float | Missing:
    """1 if the number of an answer is one of the references, 0 if not, missing if it is unclear."""
    if answer is None:
        return 0.0
    if isinstance(answer, Unclear):
        return Undecided(f"the answer {answer}")
    verdicts = [same(answer, reference, tolerance) for reference in references]
    unclear = [one for one in verdicts if isinstance(one, Unclear)]
    return Undecided(f"the answer {unclear[0]}") if unclear and True not in verdicts else float(True in verdicts)


def _close(a: Fraction, b: Fraction, tolerance: float) -> bool:
    if a.denominator == b.denominator == 1:
        return abs(a - b) <= tolerance
    # 0.1 + 0.2 is 0.3.
    return abs(a - b) <= max(NEAR * max(abs(a), abs(b)), Fraction(tolerance))


# -- which number --------------------------------------------------------------------------------------------------


def _hashed(text: str) -> str | None:
    """What stands behind the last ####, if it begins with a number: headings of Markdown begin with #### too."""
    _, marked, rest = text.rpartition("####")
    line = rest.strip().split("\n")[0]
    values = values_of(line) if marked else []
    is_title = values and "=" not in line and re.search(r"[^\W\d_]{2}", line[: values[0].start])
    return None if not values or is_title or re.match(r"\d+[.)]\s+[^\W\d_]", line) else line


def _two_boxes(text: str) -> bool:
    """Whether the last box is one of several answers."""
    starts = [found.start() for found in BOX.finditer(text)]
    return len(starts) > 1 and BOXES.search(text[max(0, starts[-1] - 40) : starts[-1]]) is not None


def _announced(text: str) -> Reading:
    """The first number in the rest of the sentence behind the last "the answer is", unless that is taken back."""
    last = max(ANSWER_IS.finditer(text), key=re.Match.end, default=None)
    if last is None:
        return None
    clause, *after = SENTENCE.split(text[last.end() :].lstrip(" \n*_:"), maxsplit=1)
    if last["not"]:
        return _last(f"not {clause}")
    found, rest = _first(clause), "".join(after)
    if found is not None and CORRECTED.search(rest) and _last(rest) not in (None, found):
        return Unclear("is followed by a correction")
    return found


def _first(clause: str) -> Reading:
    clause = _right_side(clause)
    values = values_of(clause)
    return _clear(clause, values, 0) if values else _in_words(clause, whole=True)


def _last(text: str) -> Reading:
    values = values_of(text)
    if not values:
        return _in_words(text, whole=False)
    if re.fullmatch(r"\s*- [\d.,]+\s*", text):
        return _only(text)
    return SEVERAL if _is_list(text, values) else _clear(text, values, len(values) - 1)


def _is_list(text: str, values: list[Found]) -> bool:
    """Whether a text is nothing but several values; 1) 42 is one number in a list."""
    if len(values) < 2:
        return False
    rest = set(_around(text, values)) - set("().[] ")
    gap = text[values[-2].end : values[-1].start]
    return bool(rest <= set(",;|") and (rest or not gap.strip()))


def _only(text: str) -> Reading:
    """The one number of a text."""
    if "=" in text and re.search(r"[,;]|\band\b|\bor\b", "".join(text.split("=")[1:-1])):
        return SEVERAL
    text = re.sub(r"^([-+])\s+(?=[\d.])", r"\1", _right_side(text).strip())
    # Where nothing else stands, blanks between groups of three digits are no two numbers.
    if re.fullmatch(r"\D*\d{1,3}(?: \d{3})+\D*", text):
        text = re.sub(r"(?<=\d) (?=\d{3})", ",", text)
    values = values_of(text)
    if not values:
        return _in_words(text, whole=True)
    if len(values) > 1:
        return _joint(text, values, 1) or (EXPRESSION if LEFT_OVER.search(_around(text, values)) else SEVERAL)
    found = _clear(text, values, 0)
    is_part = LEFT_OVER.search(_around(text, values)) or text[values[0].end :].startswith("!")
    return EXPRESSION if isinstance(found, Number) and is_part else found


def _right_side(text: str) -> str:
    """What stands behind the last equals sign, if a number does; else what stands before it."""
    *before, last = text.split("=")
    return last if not before or re.search(r"\d", last) or SPELLED.search(last) else before[-1]


def _around(text: str, values: list[Found]) -> str:
    """A text without its values."""
    ends, starts = [0, *(found.end for found in values)], [*(found.start for found in values), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _clear(text: str, values: list[Found], i: int) -> Number | Unclear:
    """A value of a text, unless what stands around it makes it a part of something else."""
    start, end, value, signed = values[i]
    if isinstance(value, Unclear):
        return value
    if i == 0 and len(values) > 1 and BOTH.fullmatch(text[end : values[1].start]):
        return _joint(text, values, 1) or SEVERAL
    for k in (i, i + 1):
        if 0 < k < len(values) and (found := _joint(text, values, k)):
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
    return _negative(value) if not signed and re.search(r"\b(?:minus|negative) $", before, re.IGNORECASE) else value


def _negative(value: Number) -> Number:
    return replace(value, written=-value.written, full=None if value.full is None else -value.full)


def _joint(text: str, values: list[Found], i: int) -> Unclear | None:
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


# -- words ---------------------------------------------------------------------------------------------------------


def _in_words(text: str, whole: bool) -> Reading:
    """The last number that an English text without digits spells; whole: it should spell nothing else."""
    if re.search(r"\d", text):
        return Unclear("has digits only within words")
    if ROMAN.fullmatch(text):
        return Unclear("is a Roman numeral")
    if CLOCK.search(text):
        return Unclear("is a time in words")
    whole = whole or BRIEFLY_ONE.match(text) is not None
    spelled = [found for found in SPELLED.finditer(text) if whole or found[0].lower() != "one"]
    if not spelled:
        portion = (
            PORTION.search(text)
            if whole
            else SHARE.search(text) or re.search(rf"\b(?:an?|one)[ -]{PORTION.pattern}", text, re.IGNORECASE)
        )
        return PORTIONS if portion else None
    if whole and len(spelled) > 1:
        return SEVERAL
    start, end = spelled[-1].span()
    if (
        PORTION.search(text if whole else text[max(0, start - 12) : end + 12])
        or re.match(r" (point|percent)\b", text[end:])
        or re.search(r"\bpoint $", text[:start])
    ):
        return PORTIONS
    total, part = 0, 0
    for word in re.findall(WORD, spelled[-1][0].lower()):
        if word in SCALES:
            total, part = total + (part or 1) * SCALES[word], 0
        else:
            part = (part or 1) * 100 if word == "hundred" else part + (ONES | TENS)[word]
    value = Number(Fraction(total + part))
    return _negative(value) if re.search(r"\b(?:minus|negative) $", text[:start], re.IGNORECASE) else value
