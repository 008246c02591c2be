"""Words of any language, and n-grams of words as numbers, so that comparing texts is fast and reproducible."""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from typing import Any

import numpy

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: each character counts as a word."""
_MARKS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""Vowel signs and accents that Python does not count as part of a word."""
_LETTER = rf"[^\W_{_UNSPACED}]"
_LETTERS = rf"{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*"
_SIGNS = "[-+*/=<>^%|~×÷±≤≥≠√∑∫$€£#&@]"
_WORD = re.compile(rf"{_LETTERS}|[{_UNSPACED}]")
_TOKEN = re.compile(rf"{_LETTERS}|[{_UNSPACED}]|{_SIGNS}")
_ASCII_WORD = re.compile("[a-z0-9]+")
_ASCII_TOKEN = re.compile("[a-z0-9]+|[-+*/=<>^%|~$#&@]")
_MOST_KNOWN = 2_000_000
_PRIME = numpy.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation: these are what "13 words in common" counts."""
    return _found(text, _ASCII_WORD, _WORD)


def tokens(text: str) -> list[str]:
    """The words, and the signs that carry meaning: "3 + 4" and "3 - 4" are different."""
    return _found(text, _ASCII_TOKEN, _TOKEN)


def _found(text: str, plain: re.Pattern[str], any_script: re.Pattern[str]) -> list[str]:
    if text.isascii():
        # The result is the same, several times as fast.
        return plain.findall(text.lower())
    return any_script.findall(unicodedata.normalize("NFC", text).casefold())


class Grams:
    """Turns n words into one 64-bit number, the same in every process."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def numbers(self, text_words: list[str]) -> Any:
        """A number for each word, uint64 [W]."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        numbers = self._known
        for word in set(text_words).difference(numbers):
            numbers[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        return numpy.array([numbers[word] for word in text_words], numpy.uint64)

    def of(self, text_words: list[str], length: int) -> Any:
        """A number for each n-gram in the order of the text, uint64 [max(W − length + 1, 0)]."""
        return grams_of(self.numbers(text_words), length)

    def set_of(self, text_words: list[str], length: int) -> Any:
        """The different n-grams, sorted. A text of fewer words is one n-gram; a text without words has none."""
        return (
            numpy.unique(self.of(text_words, min(length, len(text_words))))
            if text_words
            else numpy.zeros(0, numpy.uint64)
        )


def grams_of(numbers: Any, length: int) -> Any:
    """Like `Grams.of`, but from the numbers of the words."""
    count = len(numbers) - length + 1
    if count <= 0:
        return numpy.zeros(0, numpy.uint64)
    grams = numpy.zeros(count, numpy.uint64)
    for offset in range(length):
        grams *= _PRIME
        grams += numbers[offset : offset + count]
    # A polynomial alone leaves the low bits poor; this is the end of splitmix64.
    grams ^= grams >> numpy.uint64(30)
    grams *= numpy.uint64(0xBF58476D1CE4E5B9)
    grams ^= grams >> numpy.uint64(27)
    grams *= numpy.uint64(0x94D049BB133111EB)
    grams ^= grams >> numpy.uint64(31)
    return grams


def jaccard(first: Any, second: Any) -> float:
    """Size of the intersection of two sorted sets over that of their union; 1 for two empty ones."""
    if not len(first) and not len(second):
        return 1.0
    common = len(numpy.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
