"""What the rules of `zoo data filter` measure: one number for a text, or None where it would mean nothing."""

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
        """The parts between spaces, with their punctuation."""
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
    """The share of lines or paragraphs that repeat an earlier one, by number or by characters."""

    def share(text: Text) -> float | None:
        units: list[str] = getattr(text, parts)
        seen: set[str] = set()
        again = [part for part in units if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
        if len(units) < 2:
            return None
        return sum(map(len, again)) / sum(map(len, units)) if by_characters else len(again) / len(units)

    return share


def top_gram(length: int) -> Measure:
    """The share of characters in the most frequent n-gram of words; 0 if none occurs twice."""

    def share(text: Text) -> float | None:
        words = text.words
        if len(words) < FEW_WORDS:
            return None
        gram, count = Counter(zip(*(words[k:] for k in range(length)), strict=False)).most_common(1)[0]
        return min(1.0, count * sum(map(len, gram)) / sum(map(len, words))) if count > 1 else 0.0

    return share


def repeated_grams(length: int) -> Measure:
    """The share of characters in n-grams of words that repeat an earlier one, each character counted once."""

    def share(text: Text) -> float | None:
        words = text.words
        if len(words) < FEW_WORDS:
            return None
        seen: set[tuple[str, ...]] = set()
        covered, end = 0, 0
        for start in range(len(words) - length + 1):
            gram = tuple(words[start : start + length])
            if gram in seen:
                covered += sum(map(len, words[max(start, end) : start + length]))
                end = start + length
            seen.add(gram)
        return covered / sum(map(len, words))

    return share


def compression(text: Text) -> float | None:
    """Bytes after zlib over bytes before: about 0.5 for a page of prose, below 0.1 for a text that repeats itself."""
    raw = text.text.encode()
    return len(zlib.compress(raw, 6)) / len(raw) if len(raw) >= FEW_CHARACTERS else None


def longest_run(text: Text) -> float:
    """The longest run of one letter, digit, ! or ?; runs of other signs, such as dashes, may draw a table."""
    return max((len(run.group()) for run in _RUN.finditer(text.text)), default=min(1, len(text.characters)))


# -- signs -----------------------------------------------------------------------------------------------------------


def symbol_share(text: Text) -> float | None:
    """The share of symbols (neither letters, their marks, nor digits) among the characters that are not blank."""
    characters = text.characters
    if len(characters) < FEW_WORDS:
        return None
    others = [c for c in characters if not c.isalnum()]
    return sum(unicodedata.category(c)[0] != "M" for c in others) / len(characters)


def hashes_and_ellipses(text: Text) -> float | None:
    """The signs # and … (or ...) per word."""
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
    """Replacement characters, and UTF-8 that was decoded as another encoding (Ã© for é)."""
    return text.text.count("\ufffd") + len(_MOJIBAKE.findall(text.text))


# -- contents --------------------------------------------------------------------------------------------------------


def counting(pattern: re.Pattern[str]) -> Measure:
    return lambda text: len(pattern.findall(text.text.lower()))


def phrases(*wanted: str) -> Measure:
    return lambda text: sum(map(text.text.lower().count, wanted))


lorem_ipsum, javascript, curly_brackets = phrases("lorem ipsum"), phrases("javascript"), phrases("{", "}")
policies = phrases(*_POLICIES)
links, pictures, no_input, escapes = map(counting, (_LINK, _PICTURE, _NO_INPUT, _ESCAPE))


def no_answer(text: Text) -> float:
    """1 if the whole text only says that there is no answer: N/A, <nooutput>. "None" may be the right answer."""
    return float(bool(_NO_ANSWER.fullmatch(text.text.strip().lower())))


def open_fences(text: Text) -> float:
    """1 if a block of code is not closed: the answer was cut off."""
    return float(sum(line.startswith("```") for line in text.lines) % 2)


def echo(text: Text) -> float | None:
    """1 if an answer begins with the whole prompt; a prompt of fewer than five words does not count."""
    asked = words(text.prompt)
    return float(text.words[: len(asked)] == asked) if len(asked) >= 5 else None
