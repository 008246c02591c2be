"""Tokens that a run adds to a tokenizer: those that its chat template needs, and those of --new-tokens.

What the template writes is a control token, which no text of the data may contain. Everything else is a word like any
other: texts contain it, and answers show it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.encoding.named import tokens_of
from zoo.libraries.pretrained import add_token

CONTROL = re.compile(r"<\|[^<>|\s]{1,40}\|>")
"""What nobody writes who does not mean a token: `<|im_end|>`."""


@dataclass(frozen=True)
class NewTokens:
    """What a tokenizer was given. added: ids that it lacked; asked: ids of all tokens of --new-tokens.

    known: the tokenizer had ids below this number; tokens: what was wanted, and whether each is a control token.
    """

    added: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    known: int = 0
    tokens: Mapping[str, bool] = field(default_factory=dict)
    named: tuple[str, ...] = ()

    def given_to(self, tokenizer: Any) -> NewTokens:
        """The same tokens for another tokenizer, which may have some of them."""
        return give(tokenizer, self.tokens, self.named)


def give(tokenizer: Any, tokens: Mapping[str, bool], named: Sequence[str]) -> NewTokens:
    """Add tokens that a tokenizer lacks. tokens: as of `named.wanted`; named: those of --new-tokens among them."""
    if not tokens:
        return NewTokens()
    vocabulary, own = tokenizer.get_vocab(), _added(tokenizer)
    ids = {text: add_token(tokenizer, text, control) for text, control in tokens.items() if text not in own}
    asked = tuple(tokenizer.convert_tokens_to_ids(text) for text in named)
    added = tuple(number for text, number in ids.items() if text not in vocabulary)
    return NewTokens(added, asked, max(vocabulary.values()) + 1, tokens, tuple(named))


def lacking(tokenizer: Any, template: str | None) -> list[str]:
    """What looks like a token in a template's text, or is said to be one, and is none of the tokenizer's."""
    texts = dict.fromkeys([*tokens_of(template or ""), *CONTROL.findall(template or "")])
    return [text for text in texts if text not in _added(tokenizer)] if texts else []


def _added(tokenizer: Any) -> set[str]:
    return {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
