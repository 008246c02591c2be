"""From text to token ids that can be cut at given characters.

A prompt must have the same ids alone (in generation) and before an answer (in training), or the model is trained on
prompts that it never sees. The whole text is tokenised at once, so that its parts are tokenised in context, and then
cut. If a token crosses a cut (`the answ` + `er is`), the parts are tokenised separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from zoo.data.encoding.segments import Located, Segments, pattern
from zoo.libraries.tokenizing import ids_of


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
        self._swallowing = tuple(token.content for token in added.values() if token.rstrip and token.content)
        """Tokens that swallow the white space behind them."""
        self.segments = Segments(tokenizer)
        self._special = pattern(self.specials)
        self._newline = self._plain(["\n"])[0]

    def count_as_special(self, text: str) -> None:
        """Treat an added token as special, although the tokenizer does not mark it as such."""
        self.specials.add(text)
        self.special_ids.add(self.added[text])
        self._special = pattern(self.specials)

    def special_in(self, text: str) -> str | None:
        """The first special token written out in a text."""
        match = self._special.search(text)
        return match.group() if match else None

    def harmless(self, text: str) -> str:
        """A text in which no special token is written out: a space is put behind the first character of each."""
        while self._special.search(text):
            text = self._special.sub(lambda token: f"{token.group()[:1].strip()} {token.group()[1:]}", text)
        return text

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts, int [T] each, with one BOS at the start if the tokenizer wants one."""
        return [self._with_bos(ids) for ids in self.segments.ids(texts)]

    def cut(self, texts: Sequence[str], cuts: Sequence[Sequence[int]]) -> list[Cut]:
        """The ids of texts, cut at characters. The first cut of each text ends its prompt; cuts are in ascending order.

        The ids before the first cut are the ids of the prompt alone. A cut behind a token that swallows the white space
        there is made behind that space: no prompt has it as a token of its own.
        """
        if self._swallowing:
            cuts = [self._past_spaces(text, places) for text, places in zip(texts, cuts, strict=True)]
        heads = [text[: places[0]] for text, places in zip(texts, cuts, strict=True)]
        prompts = dict(zip(dict.fromkeys(heads), self.ids(list(dict.fromkeys(heads))), strict=True))
        before = [prompts[head] for head in heads]
        whole = self._cut_whole(texts, cuts, before) if self.tokenizer.is_fast else [None] * len(texts)
        crossed = [i for i, cut in enumerate(whole) if cut is None]
        parts = self._cut_parts([texts[i] for i in crossed], [cuts[i] for i in crossed], [before[i] for i in crossed])
        return [cut or next(parts) for cut in whole]

    def _past_spaces(self, text: str, places: Sequence[int]) -> list[int]:
        """The places, those behind a token that swallows white space moved behind that space."""
        moved = [0]
        for place in places:
            if text.endswith(self._swallowing, 0, place):
                place += len(text[place:]) - len(text[place:].lstrip())
            moved.append(max(place, moved[-1]))
        return moved[1:]

    def _cut_whole(
        self, texts: Sequence[str], cuts: Sequence[Sequence[int]], prompts: Sequence[list[int]]
    ) -> list[Cut | None]:
        """Texts tokenised at once; None for those with a token that crosses a cut."""
        inner = [[place for place in places[1:] if place < len(text)] for text, places in zip(texts, cuts, strict=True)]
        located = self.segments.located(texts, inner)
        return [self._joined(*of) for of in zip(located, map(len, cuts), prompts, strict=True)]

    def _joined(self, located: Located, cuts: int, prompt: list[int]) -> Cut | None:
        """A text cut behind its prompt and at the located places; a further cut is at its end."""
        ids = self._with_bos(located.ids)
        if located.positions is None or ids[: len(prompt)] != prompt:
            return None
        ahead = len(ids) - len(located.ids)
        positions = [len(prompt), *(position + ahead for position in located.positions)]
        return Cut(ids, positions + [len(ids)] * (cuts - len(positions)))

    def _cut_parts(
        self, texts: Sequence[str], cuts: Sequence[Sequence[int]], prompts: Sequence[list[int]]
    ) -> Iterator[Cut]:
        """Texts of which the prompt and what stands between two cuts are tokenised by themselves."""
        parts = [
            [text[start:end] for start, end in zip(places, [*places[1:], None], strict=True)]
            for text, places in zip(texts, cuts, strict=True)
        ]
        following = iter(self._continuations(list(chain.from_iterable(parts))))
        for prompt, own in zip(prompts, parts, strict=True):
            ids, positions = list(prompt), []
            for _ in own:
                positions.append(len(ids))
                ids += next(following)
            yield Cut(ids, positions)

    def continuation(self, text: str) -> list[int]:
        """The ids of a text that follows another text."""
        return self._continuations([text])[0]

    def _continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that follow other texts.

        Some tokenizers put a space before the first word of every text. They do not after a line break, so one is put
        before the text and its ids are removed again.
        """
        count = len(self._newline)
        behind = [
            ids[count:] if ids[:count] == self._newline else None for ids in self._plain(["\n" + t for t in texts])
        ]
        alone = iter(self._plain([text for text, ids in zip(texts, behind, strict=True) if ids is None]))
        joined = [next(alone) if ids is None else ids for ids in behind]
        return [ids if text else [] for text, ids in zip(texts, joined, strict=True)]

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in ids_of(self.tokenizer, texts)]

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]


def _wanted_bos(tokenizer: Any) -> int | None:
    """The id that the tokenizer puts before every text if special tokens are added."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None
