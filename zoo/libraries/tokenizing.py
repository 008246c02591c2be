"""Tokenizers: the ids of many texts at once, and the tokens at which a fast tokenizer cuts a text first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.libraries.reliance import relies_on


def ids_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of whole texts, without special tokens of its own."""
    if not texts:
        # Tokenizers raise for an empty list.
        return []
    if not _is_plain(tokenizer):
        return list(tokenizer(list(texts), add_special_tokens=False)["input_ids"])
    return [encoding.ids for encoding in _backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def encodings_of(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    """A fast tokenizer's own results: `ids`, and `offsets`, the characters (start, end) of each token."""
    if not texts:
        return []
    if not _is_plain(tokenizer):
        return list(tokenizer(list(texts), add_special_tokens=False).encodings)
    return list(_backend(tokenizer).encode_batch(texts, add_special_tokens=False))


def cutting_tokens(tokenizer: Any) -> dict[str, int]:
    """The tokens at which a fast tokenizer cuts every text before it does anything else, with their ids.

    What stands between two of them is tokenised by itself. None if a token takes the space beside it along, if the
    tokenizer is slow, or if it does more than the library does.
    """
    if not _is_plain(tokenizer) or tokenizer.split_special_tokens:
        return {}
    tokens = {number: token for number, token in tokenizer.added_tokens_decoder.items() if not token.normalized}
    if any(token.lstrip or token.rstrip or token.single_word for token in tokens.values()):
        return {}
    return {token.content: number for number, token in tokens.items() if token.content}


def _is_plain(tokenizer: Any) -> bool:
    """Whether a call of the tokenizer does nothing but ask the fast tokenizer inside."""
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    own = type(tokenizer)
    return (
        issubclass(own, PreTrainedTokenizerFast)
        and own.__call__ is PreTrainedTokenizerBase.__call__
        and own._encode_plus is PreTrainedTokenizerFast._encode_plus
    )


def _backend(tokenizer: Any) -> Any:
    """The tokenizer inside, without what an earlier call has left there."""
    inner = tokenizer.backend_tokenizer
    if inner.truncation is not None:
        inner.no_truncation()
    if inner.padding is not None:
        inner.no_padding()
    if inner.encode_special_tokens != tokenizer.split_special_tokens:
        inner.encode_special_tokens = tokenizer.split_special_tokens
    return inner


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("transformers", "A call of a fast tokenizer gives what the tokenizer inside it gives.")
def the_tokenizer_inside_gives_the_same() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, "a"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")
    texts = ["a b", "b</s>b a b"]
    assert _is_plain(tokenizer) and cutting_tokens(tokenizer) == {"</s>": 2}, "its class is another one"
    tokenizer(texts, padding=True, truncation=True, max_length=2)
    called = tokenizer(texts, add_special_tokens=False)
    tokenizer(texts, padding=True, truncation=True, max_length=2)
    assert ids_of(tokenizer, texts) == called["input_ids"], f"the ids are {ids_of(tokenizer, texts)}"
    offsets = [encoding.offsets for encoding in encodings_of(tokenizer, texts)]
    assert offsets == [encoding.offsets for encoding in called.encodings], f"the offsets are {offsets}"
