"""Texts as a keyboard would write them: without LaTeX, Markdown, tags, rare characters, as far as numbers need it."""

from __future__ import annotations

import re
import unicodedata

VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
CHARACTERS = str.maketrans(
    {**VULGAR, **dict.fromkeys("−﹣－‐‑–—", "-")}
    | {"＄": "$", "⁄": "/", "∕": "/", "⋅": "·", "∙": "·", "✕": "×", "∶": ":"}
)
SUBSCRIPTS = {ord("₀") + i: f"_{i}" for i in range(10)}
COMMANDS = {
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "le": "≤", "leq": "≤", "ne": "≠", "neq": "≠", "ge": "≥",
    "geq": "≥", "lt": "<",
    "gt": ">", "approx": "≈", "sim": "~", "pi": "π", "sqrt": "√", "infty": "∞", "degree": "°", "circ": "°", "left": "",
    "right": "", "displaystyle": "", "quad": " ", "qquad": " ", "euro": "€", "pounds": "£", "percent": "%",
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "therefore": " ", "implies": " ", "Rightarrow": " ",
    "rightarrow": " ",
}  # fmt: skip
WORDS_WITHIN = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s?\{([^{}]*)\}"
)
GROUPS = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f'’_]|\\[,!]|\{,\}(?:\\!)?|,\\!)(?=\d{3}(?!\d))")
"""What separates groups of three digits, other than a comma."""
FORMULA = re.compile(r"(?<![\w$])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)")
CODES = re.compile(
    r"\b(?:(USD|US(?=\$))|(EUR)|(GBP)|(JPY)|(INR|Rs\.?)|(?:CA|AU|HK|NZ)(?=\$))\s?(?=[-+$]?\d)", re.IGNORECASE
)
COEFFICIENT = re.compile(r"(?<![$＄€£¥₹\d.,])(\d[\d.,]*)([kM])\b")
"""In an equation these letters are variables."""
COMPARED = re.compile(r"(?<![-=<>!])([<>!])=(?![=>])")
NUMBER = r"\s*([-+]?[\d.,]+)\s*"
FRACTION = re.compile(rf"\\frac\s?(?:\{{{NUMBER}\}}|(\d))\s?(?:\{{{NUMBER}\}}|(\d))")


def plain(text: str) -> str:
    r"""`\$1{,}250` becomes `＄1,250` (a dollar sign that is money for sure), `\frac12` 1/2, `10⁵` 10^5, `½` 1/2."""
    text = GROUPS.sub(",", text)
    text = re.sub(r"[⁺⁻⁰¹²³⁴-⁹]+", lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text)
    text = re.sub(rf"(?<=\d)(?=[{''.join(VULGAR)}])", " ", text)
    text = unicodedata.normalize("NFKC", text.translate(CHARACTERS).translate(SUBSCRIPTS)).translate(CHARACTERS)
    text = re.sub(r"</?[a-zA-Z_]\w*>", " ", text)
    if "\\" in text:
        text = _without_latex(text)
    text = FORMULA.sub(r" \1 ", text.replace("$$", " "))
    text = re.sub(r"(?<=[\d)])(?:\*\*| \*\* )(?=[\d(-])", "^", text)
    text = COMPARED.sub(lambda found: {"!": "≠", "<": "≤", ">": "≥"}[found[1]], text)
    text = COEFFICIENT.sub(r"\1 \2", text) if "=" in text else text
    return re.sub(r"[ \t]+", " ", CODES.sub(_sign, text).replace("$$", "$").replace("**", ""))


def _without_latex(text: str) -> str:
    text = re.sub(r"\\[,;:! ()\[\]]|\\\\", " ", text.replace(r"\$", "＄").replace(r"\%", "%").replace(r"\#", "#"))
    for _ in range(2):
        text = WORDS_WITHIN.sub(r" \1 ", text)
    text = re.sub(r"\^\s?\{?\s?\\(?:circ|degree)\b\s?\}?", "°", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: COMMANDS.get(found[1], found[0]), text)
    return FRACTION.sub(_fraction, text)


def _fraction(found: re.Match[str]) -> str:
    mixed = " " if found.string[: found.start()][-1:].isdigit() else ""
    return f"{mixed}{found[1] or found[2]}/{found[3] or found[4]} "


def _sign(found: re.Match[str]) -> str:
    return "" if found.lastindex is None else "$€£¥₹"[found.lastindex - 1]
