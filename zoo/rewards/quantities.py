"""The values in a plain text, with their places: numbers with sign, fraction, power, percent and unit, times, ratios.

What looks like a number and is none by itself is `Unclear`, with the reason: a date, a list, a division by 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

LARGEST = Fraction(10) ** 300
"""The largest number that is no whole one."""
POWERS, BITS = 400, 1 << 12
"""The largest exponent, and the bits of the largest power, that are computed."""
MEASURES = {"hundred": 100, "dozen": 12, "lakh": 10**5, "crore": 10**7, "bn": 10**9, "mn": 10**6, "mln": 10**6}
"""Words that scale a number in digits, besides SCALES."""
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
UNITS = {
    spelled: unit
    for unit, spellings in {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
        "inch": "inches", "ft": "foot feet", "yd": "yard", "mile": "", "mg": "milligram", "g": "gram", "kg": "kilogram",
        "lb": "lbs", "pound": "", "oz": "ounce", "ton": "tonne", "s": "sec second", "min": "minute", "h": "hr hour",
        "day": "", "week": "", "month": "", "year": "", "ml": "milliliter millilitre", "l": "liter litre L",
        "gallon": "gal", "acre": "", "hectare": "ha", "bit": "", "byte": "", "KB": "kb kilobyte",
        "MB": "mb megabyte", "GB": "gb gigabyte", "TB": "tb terabyte",
        "Mbit": "Mb megabit", "Gbit": "Gb gigabit", "kJ": "kilojoule", "Wh": "", "kWh": "kwh", "MWh": "", "mW": "",
        "kW": "kilowatt", "MW": "megawatt", "mV": "millivolt", "kV": "kilovolt", "mA": "milliampere", "cal": "calorie",
        "kcal": "kilocalorie", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz",
        "Pa": "pascal", "kPa": "kilopascal", "kN": "kilonewton", "mol": "mole", "ohm": "Ω", "ms": "millisecond",
        "rad": "radian", "mile/h": "mph", "km/h": "kph kmh kmph", "°": "deg degree", "cent": "¢",
        "$": "＄ dollar usd", "€": "euro eur", "£": "gbp", "¥": "yen jpy", "₹": "rupee rupees inr", "N": "newton",
        "J": "joule", "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin", "C": "°C celsius", "F": "°F fahrenheit",
    }.items()
    for spelling in (unit, *spellings.split())
    for spelled in ((spelling, f"{spelling}s") if len(spelling) > 2 else (spelling,))
}  # fmt: skip
"""Each spelling of a unit. Any other word behind a number is no unit."""
MEANINGS = {"pound": ("lb", "£")}
"""Units that may be any of several."""

MONEY = "[$＄€£¥₹]"
GROUPED = r"[1-9](?:\d{0,2}(?:(?:,\d{3})++(?!,?\d)|(?:\.\d{3}){2,}+(?!\.?\d))|\d?(?:,\d\d(?=,))++,\d{3}(?!,?\d))"
"""1,234,567 and 1.234.567, and 12,34,567 as in India."""
NUMBER = (
    rf"(?>(?:{GROUPED}(?:[.,]\d++)?|[1-9]\d{{0,2}}(?:\.\d{{3}})++,\d++(?!,\d)|\d++,\d++(?!,\d)|\d++(?:\.\d++)?"
    r"|(?<![\w.])\.\d++)(?:e[-+]?\d++(?!\w))?)"
)
POWER = r"[ ]?\^[ ]?\{?[ ]?(?P<%s>[-+]?\d{1,5})[ ]?\}?"
MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE = re.compile(
    rf"(?:{MONTH} {DAY}\b(?:,? \d{{4}})?|{DAY} (?:of )?{MONTH}(?:,? \d{{4}})?|{MONTH},? \d{{4}})(?!\d)"
    r"|(?:1[5-9]|20)\d0['’]?s\b"
    r"|\d{4}([-/.])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d\d)(?!\.?\d)"
)
VALUE = re.compile(
    rf"""
    (?P<sign>(?<![\w)\]}}.%])[-+])? (?P<money>{MONEY}[ ]?)? (?P<inner>(?<={MONEY})[-+])?
    (?:
      (?P<hour>\d{{1,2}}) (?: :(?P<minute>\d\d) (?: :(?P<second>\d\d))? (?![\d:]) (?:[ ]?(?P<half>[ap])\.?m\b)?
                          | [ ]?(?P<only>[ap])\.?m\b )
    | (?P<left>\d++)(?:[ ]:[ ]|:)(?P<right>\d++)(?![ ]?:[ ]?\d)
    | (?P<list>(?!{GROUPED}) \d++(?: (?:,\d++){{2,}}+ | (?:\.\d++){{2,}}+ ))
    | (?P<mantissa>{NUMBER})[ ]?[×·*x][ ]?10{POWER % "ten"}
    | (?P<base>{NUMBER}){POWER % "power"}
    | (?P<whole>\d++)[ ](?:and[ ])?(?P<over>\d++)[ ]?/[ ]?(?P<under>\d++)(?![ ]?/[ ]?\d)
    | (?P<number>{NUMBER})(?:[ ]?/[ ]?(?P<divisor>-?{NUMBER}))?+(?![ ]?/[ ]?\d)
    | (?P<odd>\d++(?:[ ]?[/:.,][ ]?\d++)*+)
    )
    (?P<percent>[ ]?(?:%|‰|(?:percent|per[ ]cent|pct|per[ ]?mil(?:le?)?|ppm|basis[ ]points?|bps)\b))?
    (?P<suffix>(?(money)[kmb]|(?-i:[kM]))(?![\w²³^/]))?
    (?:[ ](?P<scale>hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?\b|[ ]?(?P<short>bn|mn|mln)\b)?
    (?:(?:[ ]?(?={MONEY})|[ -]?(?!{MONEY}))(?P<shape>(?:square|sq\.?|cubic|cu\.?)[ ])?
       (?P<unit>{MONEY}(?!\d) | °[ ]?[CF]\b | [¢°] | [^\W\d_]+)
       (?P<raised>[ ]?\^[ ]?\{{?[ ]?-?\d[ ]?\}}?|[ ](?:squared|cubed)\b)?
       (?:(?:[ ]?/[ ]?|[ ]per[ ])(?P<per>[^\W\d_]+)(?P<below>[ ]?\^[ ]?\{{?[ ]?-?\d[ ]?\}}?)?)? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
UNSPACED = r"[\u3040-\u30ff\u3400-\u9fff]++"
"""Chinese and Japanese, where no blank stands between a word and a number."""
WORD = re.compile(rf"{UNSPACED}|[^\W\d_]\w*(?:(?<=\d)(?:\.\d+)+| ?\^ ?\{{? ?-?\d+ ?\}}?)?")
NEXT = re.compile(rf"[\w.+-]|{MONEY}")


class Unclear(str):
    """Why a text means no one number, to stand behind "the answer" or "the reference answer"."""


LIST = Unclear("is a list of numbers")


@dataclass(frozen=True)
class Number:
    """A number as it is written, and `full`, with the word behind it: 50 and ½ of "50%", 3:30 and 15:30 (in seconds) of
    "3:30 pm", 5 and 5,000,000 of "5 million"; None without such a word. unit: one of UNITS; kind: number, time, ratio;
    perhaps: a value that may be meant as well, as −5 by (5) in accounts, and 0 by "none".
    """

    written: Fraction
    full: Fraction | None = None
    unit: str = ""
    kind: str = "number"
    perhaps: Fraction | None = None


class Found(NamedTuple):
    """A value and its place in a plain text."""

    start: int
    end: int
    value: Number | Unclear
    signed: bool


def values_of(text: str) -> list[Found]:
    """All values of a plain text. Digits within words, as in x2 and H2O, are none."""
    return list(_scanned(text))


def _scanned(text: str) -> Iterator[Found]:
    at = 0
    while place := NEXT.search(text, at):
        at = place.start()
        if date := DATE.match(text, at):
            yield Found(at, date.end(), Unclear("is a date; the reward exact compares texts"), False)
            at = date.end()
        elif word := WORD.match(text, at):
            at = word.end()
        elif found := VALUE.match(text, at):
            end = _end(found)
            yield Found(at, end, _value(found), bool(found["sign"] or found["inner"]))
            at = end
        else:
            at += 1


def _end(found: re.Match[str]) -> int:
    """Where a value ends: the next word, unless it is a unit, may say more (3 to 5), one letter may be a variable."""
    if not found["unit"] or _named(found["unit"]):
        return found.end()
    begin = found.start("shape" if found["shape"] else "unit")
    return begin - (found.string[begin - 1] in " -")


def _unit(found: re.Match[str]) -> str:
    if found["money"]:
        return UNITS[found["money"].strip()]
    if not (name := _named(found["unit"] or "")):
        return ""
    raised, below = (_exponent(found[part] or "") for part in ("raised", "below"))
    raised = raised or _exponent(found["shape"] or "")
    if name in MONEY or name == "cent":
        # A price for each is still a price.
        return name
    return name + raised + (f"/{_named(found['per']) or found['per']}{below}" if found["per"] else "")


def _exponent(text: str) -> str:
    """2 of `^2`, `square` and `squared`, 3 of `cubic`; "" of an empty text."""
    words = re.match(r"\s*(?:(sq)|cu)", text, re.IGNORECASE)
    return ("2" if words[1] else "3") if words else "".join(re.findall(r"-?\d", text))


def _named(word: str) -> str:
    word = word.replace(" ", "")
    return UNITS.get(word, UNITS.get(word.lower(), "") if len(word) > 1 else "")


def _value(found: re.Match[str]) -> Number | Unclear:
    if found["list"] or found["odd"]:
        return LIST
    if found["hour"]:
        return _clock(found)
    try:
        if found["left"]:
            return Number(Fraction(int(found["left"]), int(found["right"])), kind="ratio")
        value = _amount(found)
    except ZeroDivisionError:
        return Unclear("divides by 0")
    except ValueError:
        return Unclear("is too large or too small")
    if abs(value) > LARGEST and value.denominator > 1:
        return Unclear("is too large or too small")
    value = -value if "-" in (found["sign"] or "") + (found["inner"] or "") else value
    if found["money"] and found["unit"] == "mm":
        return Unclear("may be millions, or thousands")
    factor = Fraction(_scale(found), _part(found["percent"] or "") * (100 if _unit(found) == "cent" else 1))
    if found["unit"] == "K" and found.string[found.start("unit") - 1].isdigit():
        return Unclear("may be thousands, or kelvin")
    if _unit(found) == "€" and re.fullmatch(r"\d{1,3}\.\d{3}", found["number"] or ""):
        return Unclear("has a dot before thousands, or decimals")
    if (divisor := found["divisor"]) and re.fullmatch(r"(?:19|20)\d\d", found["number"]) and len(divisor) == 2:
        if divisor == f"{int(found['number']) + 1}"[2:]:
            return Unclear("is a year, or a fraction")
    return Number(value, value * factor if factor != 1 else None, _unit(found))


def _scale(found: re.Match[str]) -> int:
    """What the word or letter behind a number multiplies it by; 10m may be ten million."""
    if _unit(found) == "m" and found.string[found.start("unit") - 1].isdigit():
        return 10**6
    suffix = {"": "", "k": "thousand", "m": "million", "b": "billion"}[(found["suffix"] or "").lower()]
    return (SCALES | MEASURES).get(suffix or (found["scale"] or found["short"] or "").lower(), 1)


def _part(word: str) -> int:
    """100 of percent, 1000 of per mille, 10,000 of basis points, a million of ppm."""
    word = word.strip().lower()
    if not word:
        return 1
    if word == "ppm":
        return 10**6
    return 10_000 if word.startswith("b") else 1000 if word == "‰" or "mil" in word else 100


def _amount(found: re.Match[str]) -> Fraction:
    """Raises ValueError for what is too large to compute, ZeroDivisionError."""
    if found["mantissa"]:
        return _parsed(found["mantissa"]) * _power(Fraction(10), int(found["ten"]))
    if found["base"]:
        return _power(_parsed(found["base"]), int(found["power"]))
    if found["whole"]:
        return int(found["whole"]) + Fraction(int(found["over"]), int(found["under"]))
    return _parsed(found["number"]) / (_parsed(found["divisor"]) if found["divisor"] else 1)


def _power(base: Fraction, power: int) -> Fraction:
    if abs(power) > POWERS or max(abs(base.numerator), base.denominator).bit_length() * abs(power) > BITS:
        raise ValueError("too large")
    return base**power


def _parsed(number: str) -> Fraction:
    """Of comma and dot the last is the decimal one, unless it only separates groups of three digits (but 1.234 < 2)."""
    digits, _, power = number.lower().partition("e")
    if re.fullmatch(r"-?[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d\d)+,\d{3})(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif digits.count(".") > 1 or digits.find(",") > digits.find(".") >= 0:
        digits = digits.replace(".", "")
    return Fraction(digits.replace(",", ".")) * _power(Fraction(10), int(power or 0))


def _clock(found: re.Match[str]) -> Number | Unclear:
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    half = (found["half"] or found["only"] or "").lower()
    if minute > 59 and not (second or half):
        return Number(Fraction(hour, minute), kind="ratio")
    if max(minute, second) > 59 or (half and not 1 <= hour <= 12):
        return Unclear("is no time")
    written = Fraction(3600 * hour + 60 * minute + second)
    return Number(written, written + 3600 * (12 * (half == "p") - 12 * (hour == 12)) if half else None, kind="time")
