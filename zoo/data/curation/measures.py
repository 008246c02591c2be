"""What the rules of `zoo data filter` measure: one number of a text, or None where it would mean nothing."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cached_property

from zoo.data.curation.words import words

Measure = Callable[["Text"], float | None]

FEW_WORDS = 20
"""Words below which repeated n-grams say nothing: "yes, yes" is an answer."""
FEW_CHARACTERS = 200
_BULLET = re.compile(r"\s*(?:[-*•‣●○▪–]|\d+[.)])\s")
_ENDINGS = (".", "!", "?", '"', "'", "”", "’", "»", "。", "！", "？", "।", "؟", "…")
_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_SENTENCE = re.compile(r"[.!?。！？।؟]+[\"'”’)\]]*(?=\s|$|(?<=[。！？]))")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_RUN = re.compile(r"([^\W_]|[!?])\1+")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOJIBAKE = re.compile("[ÂÃ][\u0080-\u00bf]|â€")
_LINK = re.compile(r"https?://|\bwww\.\w")
_PICTURE = re.compile(r"<image>|\[image\]|(?:picture|image|photo|video|file) attached|attached (?:picture|image|photo)")
_NO_INPUT = re.compile(r"<\s*no\s?input\s*>|(?:^|\n)\s*(?:no input|n/a)\s*\.?\s*\Z")
_NO_ANSWER = re.compile(r"<\s*no\s?output\s*>|no output\.?|n/a\.?|-+|\.{2,}|…")
_ESCAPE = re.compile(r"\\[nt](?![a-z])|\\u[0-9a-f]{4}")


class Text:
    """A text to be measured, and the prompt it answers (empty for a prompt)."""

    def __init__(self, text: str, prompt: str = ""):
        self.text, self.prompt = text, prompt

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)

    @cached_property
    def pieces(self) -> list[str]:
        """What stands between spaces, punctuation and all."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in re.split(r"\n\s*\n", self.text) if part.strip()]

    @cached_property
    def characters(self) -> str:
        return "".join(self.pieces)


# -- size ------------------------------------------------------------------------------------------------------------


def word_count(text: Text) -> float:
    return len(text.words)


def sentence_count(text: Text) -> float:
    return len(_SENTENCE.findall(text.text))


def word_length(text: Text) -> float | None:
    return sum(map(len, text.words)) / len(text.words) if text.words else None


# -- repetition ------------------------------------------------------------------------------------------------------


def repeated(parts: str, by_characters: bool = False) -> Measure:
    """The share of lines or paragraphs that stood there before, by number or by characters."""

    def share(text: Text) -> float | None:
        found: list[str] = getattr(text, parts)
        seen: set[str] = set()
        again = [part for part in found if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
        if len(found) < 2:
            return None
        return sum(map(len, again)) / sum(map(len, found)) if by_characters else len(again) / len(found)

    return share


def top_gram(length: int) -> Measure:
    """The share of characters in the most frequent n-gram of words; one that occurs once counts as none."""

    def share(text: Text) -> float | None:
        found = text.words
        if len(found) < FEW_WORDS:
            return None
        gram, count = Counter(zip(*(found[k:] for k in range(length)), strict=False)).most_common(1)[0]
        return min(1.0, count * sum(map(len, gram)) / sum(map(len, found))) if count > 1 else 0.0

    return share


def repeated_grams(length: int) -> Measure:
    """The share of characters in n-grams of words that stood there before, each character counted once."""

    def share(text: Text) -> float | None:
        found = text.words
        if len(found) < FEW_WORDS:
            return None
        seen: set[tuple[str, ...]] = set()
        covered, end = 0, 0
        for start in range(len(found) - length + 1):
            gram = tuple(found[start : start + length])
            if gram in seen:
                covered += sum(map(len, found[max(start, end) : start + length]))
                end = start + length
            seen.add(gram)
        return covered / sum(map(len, found))

    return share


def compression(text: Text) -> float | None:
    """Bytes after zlib over bytes before: about 0.5 for a page of prose, below 0.1 where a text goes in circles."""
    raw = text.text.encode()
    return len(zlib.compress(raw, 6)) / len(raw) if len(raw) >= FEW_CHARACTERS else None


def longest_run(text: Text) -> float:
    """The longest run of one letter, digit, or sign of exclamation; dashes draw tables."""
    return max((len(run.group()) for run in _RUN.finditer(text.text)), default=min(1, len(text.characters)))


# -- signs -----------------------------------------------------------------------------------------------------------


def symbol_share(text: Text) -> float | None:
    """Characters that are neither letters, their marks, nor digits, of all that are not blank."""
    found = text.characters
    if len(found) < FEW_WORDS:
        return None
    others = [c for c in found if not c.isalnum()]
    return sum(unicodedata.category(c)[0] != "M" for c in others) / len(found)


def hashes_and_ellipses(text: Text) -> float | None:
    """Signs # and … (or ...) for each word."""
    count = text.text.count("#") + text.text.count("…") + text.text.count("...")
    return count / len(text.pieces) if text.pieces else None


def share_of_lines(test: Callable[[str], object]) -> Measure:
    return lambda text: sum(map(bool, map(test, text.lines))) / len(text.lines) if text.lines else None


bullets = share_of_lines(_BULLET.match)
ellipses = share_of_lines(lambda line: line.endswith(("…", "...")))
unfinished_lines = share_of_lines(lambda line: not line.endswith(_ENDINGS))
short_lines = share_of_lines(lambda line: len(words(line)) < 3)


def words_with_letters(text: Text) -> float | None:
    return sum(any(map(str.isalpha, piece)) for piece in text.pieces) / len(text.pieces) if text.pieces else None


def stop_words(text: Text) -> float:
    """How many of eight English words occur: the, be, to, of, and, that, have, with."""
    return len(_STOP_WORDS.intersection(text.words))


def control_characters(text: Text) -> float:
    return len(_CONTROL.findall(text.text))


def damage(text: Text) -> float:
    """Replacement characters, and UTF-8 that was read as something else (Ã© for é)."""
    return text.text.count("\ufffd") + len(_MOJIBAKE.findall(text.text))


# -- contents --------------------------------------------------------------------------------------------------------


def counting(pattern: re.Pattern[str]) -> Measure:
    return lambda text: len(pattern.findall(text.text.lower()))


def phrases(*found: str) -> Measure:
    return lambda text: sum(map(text.text.lower().count, found))


lorem_ipsum, javascript, curly_brackets = phrases("lorem ipsum"), phrases("javascript"), phrases("{", "}")
policies = phrases(*_POLICIES)
links, pictures, no_input, escapes = map(counting, (_LINK, _PICTURE, _NO_INPUT, _ESCAPE))


def no_answer(text: Text) -> float:
    """1 where the whole text is a sign for nothing: N/A, <nooutput>. "None" may be the right answer."""
    return float(bool(_NO_ANSWER.fullmatch(text.text.strip().lower())))


def open_fences(text: Text) -> float:
    """1 where a block of code is begun and not ended: the answer was cut off."""
    return float(sum(line.startswith("```") for line in text.lines) % 2)


def echo(text: Text) -> float | None:
    """1 where an answer begins with the whole prompt, if that has five words or more."""
    asked = words(text.prompt)
    return float(text.words[: len(asked)] == asked) if len(asked) >= 5 else None
