"""Numbers in words: "two hundred and five" becomes 205, and what may be a number by another name is unclear."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from zoo.rewards.quantities import SCALES, Number, Unclear
from zoo.rewards.surroundings import EXPRESSION, PORTION, PORTIONS

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
ONES = {word: i for i, word in enumerate(f"{SMALL} eighteen nineteen".split())}
TENS = {word: 10 * i for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
TENS |= {"fourty": 40, "ninty": 90}
WORD = "|".join(sorted([*ONES, *TENS, "hundred", *SCALES], key=len, reverse=True))
SPELLED = re.compile(
    rf"\b(?:{WORD}|(?:{'|'.join(TENS)})(?={WORD}))(?:(?:\b(?:-|\s+(?:and\s+)?)|(?<=ty))(?:{WORD})\b)*\b", re.IGNORECASE
)
ROMAN = re.compile(r"\W*(?:[IVXLCDM]{2,}|[VX])\W*")
BRIEFLY_ONE = re.compile(r"\W*(?:(?:only|just|exactly) )?one(?! of\b)(?:\W+\w+){0,2}\W*$", re.IGNORECASE)
"""In a sentence "one" is a pronoun."""
SHARE = re.compile(r"\b(?:half|halves|quarters|thirds|fourths|fifths|dozens?)\b", re.IGNORECASE)
"""Those of the words for parts that are numbers by themselves."""
CLOCK = re.compile(r"\b(?:noon|midday|midnight|o['’]clock|(?:half|quarter) (?:past|to))\b", re.IGNORECASE)
LETTERS = re.compile(r"[^\W\d_]+")
BRIEF = 4
"""The most words of a text in which each may be the number."""
GARBLED = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f\x7f]")
"""In what no language has: bytes that are no text, and controls."""
CONSTANT = re.compile(r"[\u0370-\u03ff√∛]|\b(?:pi|PI|Pi)\b|^\W*e\W*$")
ZERO = Number(Fraction(0), perhaps=Fraction(0))
NOTHING = re.compile(r"\b(?:nil|no(?:ne(?! of\b)|thing|ught|body| [a-z]+s)|naught)\b", re.IGNORECASE)
NAMED = re.compile(
    r"\b(?:one of|once|twice|thrice|couple|pair|double|triple|hundreds"
    r"|thousands|millions|billions|tens)\b"
    r"|^\W*(?:the )?(?:first|second|third|[a-z]+(?:fth|xth|nth|hth|tieth))\W*$",
    re.IGNORECASE,
)
"""In a brief text, words that may be meant as a number."""
FOREIGN = frozenset(
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig hundert tausend "
    "zéro un deux trois quatre cinq sept huit neuf dix onze douze treize quatorze quinze seize vingt trente quarante "
    "cinquante soixante cent mille cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce "
    "quince veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa cien ciento mil "
    "due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici venti trenta "
    "quaranta cinquanta sessanta settanta ottanta novanta cento um dois três quatro oito dez doze treze vinte trinta "
    "quarenta cinquenta sessenta oitenta cem een twee drie vijf zes zeven negen tien twaalf twintig dertig honderd "
    "один два три четыре пять шесть семь восемь девять десять двадцать сто тысяча".split()
)
"""German, French, Spanish, Italian, Portuguese, Dutch and Russian."""
COMPOUND = re.compile(r"(?:zehn|zwanzig|dreißig|vierzig|fünfzig|sechzig|siebzig|achtzig|neunzig|hundert|tausend|tig)$")
ENGLISH = frozenset("once cent mille sept quince null".split())
"""Of these words, those of four letters and more that English texts have, too."""
ANOTHER_LANGUAGE = Unclear("may have a number in another language")


def in_digits(text: str, whole: bool) -> str | Number | None:
    """A text without digits, with digits for the English words that spell a number; None if no word does.

    `Unclear` if a word may be a number that is not read; ZERO of "none". whole: each word may be meant as the number.
    """
    if re.search(r"\d", text):
        return Unclear("has digits only within words")
    if GARBLED.search(text):
        return None
    if ROMAN.fullmatch(text):
        return Unclear("is a Roman numeral")
    if CLOCK.search(text):
        return Unclear("is a time in words")
    whole = whole or BRIEFLY_ONE.match(text) is not None
    spelled = [found for found in SPELLED.finditer(text) if whole or found[0].lower() != "one"]
    if not spelled:
        return _unread(text, whole)
    if PORTION.search(text if whole else text[max(0, spelled[-1].start() - 12) : spelled[-1].end() + 12]):
        return PORTIONS
    if _written(spelled[-1][0]) is None:
        return Unclear("is a year, or several numbers, in words")
    ends = [0, *(found.end() for found in spelled)]
    parts = [
        text[end : found.start()] + (_written(found[0]) or found[0]) for end, found in zip(ends, spelled, strict=False)
    ]
    return "".join([*parts, text[ends[-1] :]])


def _written(words: str) -> str | None:
    """Words in digits: 205 of two hundred and five, 2 and 2 of two and two."""
    for parts in ([words], re.split(r"\s+and\s+", words)):
        values = [_value(part) for part in parts]
        if None not in values:
            return " and ".join(map(str, values))
    return None


def _value(words: str) -> int | None:
    """The number that words spell; None where they do not follow on each other, as in nineteen ninety."""
    total, part, last = 0, 0, 0
    for word in re.findall(WORD, words.lower()):
        if word in SCALES:
            total, part, last = total + (part or 1) * SCALES[word], 0, 0
        elif word == "hundred":
            if part >= 100:
                return None
            part, last = (part or 1) * 100, 0
        else:
            value = (ONES | TENS)[word]
            if last and (last < 20 or value > 9):
                return None
            part, last = part + value, value or 1
    return total + part


def _unread(text: str, whole: bool) -> Number | Unclear | None:
    """Why a text in which no number is spelled in English may mean one."""
    words = LETTERS.findall(text.lower())
    brief = len(words) <= BRIEF
    whole = whole or brief
    if PORTION.search(text) if whole else SHARE.search(text) or re.search(rf"\b(?:an?|one)[ -]{PORTION.pattern}", text):
        return PORTIONS
    if brief and CONSTANT.search(text):
        return EXPRESSION
    has_numeral = any(unicodedata.numeric(character, None) is not None for character in text)
    if has_numeral or any(_is_foreign(word, brief) for word in words):
        return ANOTHER_LANGUAGE
    if brief and NOTHING.search(text):
        return ZERO
    return Unclear("may have a number by another name") if brief and NAMED.search(text) else None


def _is_foreign(word: str, brief: bool) -> bool:
    if brief:
        return word in FOREIGN or COMPOUND.search(word) is not None or not word.isascii()
    return len(word) > 3 and word not in ENGLISH and (word in FOREIGN or COMPOUND.search(word) is not None)
