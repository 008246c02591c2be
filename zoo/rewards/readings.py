"""The number that a text means: 42 of "#### 42", −1250.5 of "so -$1,250.50.", ½ of "\\boxed{\\frac{1}{2}}".

Its place tells which number is meant (`read`); `surroundings` tells whether it is a part of something else.
docs/grading.md has the rules, and a hundred examples, which a test grades.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from zoo.rewards.missing import Missing, Undecided
from zoo.rewards.number_words import SPELLED, in_digits
from zoo.rewards.plain_text import plain
from zoo.rewards.quantities import LARGEST, MEANINGS, Found, Number, Unclear, values_of
from zoo.rewards.references import BOX, boxed
from zoo.rewards.surroundings import EXPRESSION, SEVERAL, clear, joint

Reading = Number | Unclear | None
"""None: a text without a number."""
NEAR = Fraction(1, 10**9)
"""By how much of their size equal numbers may differ."""
BOXES = re.compile(r"\}[\s$]*(?:[,;]|[,;]?\s*(?:or|and))[\s$]*$", re.IGNORECASE)
"""Between two boxes."""
CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|oops|scratch that|I mean|no,)", re.IGNORECASE)
LEFT_OVER = re.compile(r"[\^√π∞±≤≥≠<>×÷∪|]|\\[a-zA-Z]+")
ANSWER_IS = re.compile(
    r"\banswer\b(?: to [^.\n]{1,80}?)?[\s*_]*"
    r"(?:\b(?:is|was|equals|would be|will be)(?P<not>n['’]t\b|\s+(?:not|no longer|never)\b)?(?!\w)|:|=)",
    re.IGNORECASE,
)
BARE, MARKED, NAMED = (
    re.compile(rf"\s*{start}[$€£]?\d[\d.,]*\W*")
    for start in ("", r"(?:[-*•] +|\(?\w{1,2}[.)] +)", r"[A-Za-z]\w* ?[=:] ?-?")
)
"""A line that is nothing but a value, one of a list, or one with a name."""
BEHIND_IN_WORDS = re.compile(rf"(?!(?i:one)\b){SPELLED.pattern}(?: \w+)?\W*$", re.IGNORECASE)
SENTENCE = re.compile(r"[.;!?](?=\s|$)|\n")


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
    if _may_be(answer, reference, tolerance):
        return Unclear("may mean that number, or another one")
    if answer.unit and reference.unit and not _meanings(answer.unit) & _meanings(reference.unit):
        return Unclear("has another unit than the reference answer")
    pairs = [tuple(one.written if one.full is None else one.full for one in (answer, reference))]
    if (answer.full is None) != (reference.full is None):
        pairs.append((answer.written, reference.written))
    return any(_close(a, b, tolerance) for a, b in pairs)


def _may_be(answer: Number, reference: Number, tolerance: float) -> bool:
    """Whether only the other value of an answer equals the reference, as of (5) and -5."""
    perhaps = answer.perhaps
    return perhaps not in (None, reference.perhaps) and _close(perhaps, reference.written, tolerance)


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
    if _has_equations(clause):
        return SEVERAL
    clause = _right_side(clause)
    values = values_of(clause)
    return clear(clause, values, 0) if values else _in_words(clause, _first, whole=True)


def _last(text: str) -> Reading:
    values = values_of(text)
    if not values:
        return _in_words(text, _last, whole=False)
    if re.fullmatch(r"\s*(?:- [\d.,]+|\d+!|[$€£]? ?\d{1,3}(?: \d{3})+[.,]\d+ ?[$€£]?)\s*", text):
        return _only(text)
    if _is_list(text, values) or _is_lines(text):
        return SEVERAL
    found = clear(text, values, len(values) - 1)
    return _what_follows(text[values[-1].end :], found) or found


def _what_follows(rest: str, found: Number | Unclear) -> Unclear | None:
    """Why the last number in digits may not be the one that is meant: a question, or a number in words behind it."""
    if re.match(r"[^.!;\n]*\?", rest):
        return Unclear("stands in a question")
    if (spelled := BEHIND_IN_WORDS.search(rest)) and _in_words(spelled[0], _first, whole=True) != found:
        return Unclear("is followed by a number in words")
    return None


def _in_words(text: str, reading: Callable[[str], Reading], whole: bool) -> Reading:
    """The reading of a text without digits once its words for numbers are digits."""
    digits = in_digits(text, whole)
    return digits if digits is None or isinstance(digits, Number | Unclear) else reading(digits)


def _is_list(text: str, values: list[Found]) -> bool:
    """Whether a text is nothing but several values; 1) 42 is one number in a list."""
    if len(values) < 2:
        return False
    if len(values) > 3 and not _around(text, values).strip("(). "):
        return True
    rest = set(_around(text, values)) - set("().[] ")
    gap = text[values[-2].end : values[-1].start]
    return bool(rest <= set(",;|") and (rest or not gap.strip()))


def _is_lines(text: str) -> bool:
    """Whether each of several lines is nothing but a value, all of one sort."""
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and any(all(map(sort.fullmatch, lines)) for sort in (BARE, MARKED, NAMED))


def _only(text: str) -> Reading:
    """The one number of a text."""
    if _has_equations(text):
        return SEVERAL
    text = re.sub(r"^([-+])\s+(?=[\d.])", r"\1", _right_side(text).strip())
    # Where nothing else stands, blanks between groups of three digits are no two numbers.
    if re.fullmatch(r"\D*\d{1,3}(?: \d{3})+(?:[.,]\d+)?\D*", text):
        text = re.sub(r"(?<=\d) (?=\d{3})", "", text)
    values = values_of(text)
    if not values:
        return _in_words(text, _only, whole=True)
    if len(values) > 1:
        return joint(text, values, 1) or (EXPRESSION if LEFT_OVER.search(_around(text, values)) else SEVERAL)
    found = clear(text, values, 0)
    is_part = LEFT_OVER.search(_around(text, values)) or text[values[0].end :].startswith("!")
    return EXPRESSION if isinstance(found, Number) and is_part else found


def _has_equations(text: str) -> bool:
    """Whether a text says that several things are equal: x = 3 and y = 4."""
    return re.search(r"[,;](?!\d{3})|\band\b|\bor\b", "".join(text.split("=")[1:-1])) is not None


def _right_side(text: str) -> str:
    """What stands behind the last equals sign, if a number does; else what stands before it."""
    *before, last = text.split("=")
    return last if not before or re.search(r"\d", last) or SPELLED.search(last) else before[-1]


def _around(text: str, values: list[Found]) -> str:
    """A text without its values."""
    ends, starts = [0, *(found.end for found in values)], [*(found.start for found in values), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
