"""From text to token ids that can be cut at given characters.

A prompt must have the same ids alone (in generation) and before an answer (in training), or the model is trained on
prompts that it never sees. The whole text is tokenised at once, so that its parts are tokenised in context, and then
cut. If a token crosses a cut (`the answ` + `er is`), the parts are tokenised separately.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Cut(NamedTuple):
    """The token ids of a text, and the number of ids before each cut."""

    ids: list[int]
    positions: list[int]


class TextTokenizer:
    """A tokenizer that writes the beginning-of-sequence token (BOS) once, and knows which tokens are special."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bos = _wanted_bos(tokenizer)
        self.special_ids = set(tokenizer.all_special_ids)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.special_ids |= {number for number, token in added.items() if token.special}
        self.added = {token.content: number for number, token in added.items() if token.content.strip()}
        self.specials = {text for text, number in self.added.items() if number in self.special_ids}
        self.rowless: frozenset[str] = getattr(tokenizer, "rowless", frozenset())
        """Tokens that the model has no rows for."""
        self._special = self.pattern(self.specials)
        self._newline = self._plain("\n")

    @staticmethod
    def pattern(texts: Iterable[str]) -> re.Pattern[str]:
        """A pattern that matches any of the texts, the longest first, and nothing if there are none."""
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")

    def count_as_special(self, text: str) -> None:
        """Treat an added token as special, although the tokenizer does not mark it as such."""
        self.specials.add(text)
        self.special_ids.add(self.added[text])
        self._special = self.pattern(self.specials)

    def special_in(self, text: str) -> str | None:
        """The first special token written out in a text."""
        match = self._special.search(text)
        return match.group() if match else None

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts, int [T] each, with one BOS at the start if the tokenizer wants one."""
        # Tokenizers raise for an empty list.
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [self._with_bos(ids) for ids in encoded]

    def cut(self, texts: Sequence[str], cuts: Sequence[Sequence[int]]) -> list[Cut]:
        """The ids of texts, cut at characters. The first cut of each text ends its prompt; cuts are in ascending order.

        The ids before the first cut are the ids of the prompt alone.
        """
        heads = [text[: places[0]] for text, places in zip(texts, cuts, strict=True)]
        # A pair shares its prompt, and a conversation has the same text as its last answer: each is tokenised once.
        prompts = dict(zip(dict.fromkeys(heads), self.ids(list(dict.fromkeys(heads))), strict=True))
        encodings = dict(zip(dict.fromkeys(texts), self._encodings(list(dict.fromkeys(texts))), strict=True))
        result = []
        for text, places, head in zip(texts, cuts, heads, strict=True):
            encoding = encodings[text]
            whole = None if encoding is None else self._cut_whole(text, places, prompts[head], encoding)
            result.append(whole or self._cut_parts(text, places, prompts[head]))
        return result

    def _encodings(self, texts: Sequence[str]) -> Sequence[Any]:
        """The fast tokenizer's own results, which hold the character offsets of tokens; None for a slow tokenizer."""
        if not texts or not self.tokenizer.is_fast:
            return [None] * len(texts)
        return self.tokenizer(list(texts), add_special_tokens=False).encodings

    def _cut_whole(self, text: str, places: Sequence[int], prompt: list[int], encoding: Any) -> Cut | None:
        """The text tokenised at once, or None if a token crosses a cut."""
        ids = self._with_bos(encoding.ids)
        if ids[: len(prompt)] != prompt:
            return None
        ahead = len(ids) - len(encoding.ids)
        positions = [len(prompt)]
        offsets = None
        for place in places[1:]:
            if place == len(text):
                positions.append(len(ids))
                continue
            # A token's offsets may leave out its leading space, so a cut after a space proves nothing.
            if place > 0 and text[place - 1] == " ":
                return None
            offsets = offsets or encoding.offsets
            position = bisect_left(offsets, place, key=lambda span: span[0])
            if position and offsets[position - 1][1] > place:
                return None
            positions.append(position + ahead)
        return Cut(ids, positions)

    def _cut_parts(self, text: str, places: Sequence[int], prompt: list[int]) -> Cut:
        ids, positions = list(prompt), [len(prompt)]
        for start, end in zip(places, places[1:], strict=False):
            ids += self.continuation(text[start:end])
            positions.append(len(ids))
        return Cut(ids + self.continuation(text[places[-1] :]), positions)

    def continuation(self, text: str) -> list[int]:
        """The ids of a text that follows another text.

        Some tokenizers put a space before the first word of every text. They do not after a line break, so one is put
        before the text and its ids are removed again.
        """
        if not text:
            return []
        ids = self._plain("\n" + text)
        count = len(self._newline)
        return ids[count:] if ids[:count] == self._newline else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]


def _wanted_bos(tokenizer: Any) -> int | None:
    """The id that the tokenizer puts before every text if special tokens are added."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None
