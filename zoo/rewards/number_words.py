"""The number that an English text without digits spells: 205 of "two hundred and five"."""

from __future__ import annotations

import re
from fractions import Fraction

from zoo.rewards.quantities import SCALES, Number, Unclear
from zoo.rewards.surroundings import PORTION, PORTIONS, SEVERAL, negative

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
SHARE = re.compile(r"\b(?:half|halves|quarters|thirds|fourths|fifths|dozens?)\b", re.IGNORECASE)
"""Those that are numbers by themselves."""
CLOCK = re.compile(r"\b(?:noon|midday|midnight|o['’]clock|(?:half|quarter) (?:past|to))\b", re.IGNORECASE)


def in_words(text: str, whole: bool) -> Number | Unclear | None:
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
    return negative(value) if re.search(r"\b(?:minus|negative) $", text[:start], re.IGNORECASE) else value
