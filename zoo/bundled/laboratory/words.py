"""A tokenizer of whole words: enough for a world's few words, and every token is readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

START, END, PADDING, UNKNOWN = "<start>", "<end>", "<pad>", "<unknown>"
SPECIAL = (PADDING, START, END, UNKNOWN)
TURNS = "{% for turn in messages %}{{ turn.content }} {{ eos_token + ' ' if turn.role == 'assistant' }}{% endfor %}"
"""A chat template of blanks and an end token after each answer: a prompt and its answer are one document."""


def make_tokenizer(words: Sequence[str], chat_template: str | None = TURNS) -> Any:
    """One token per word, in the given order, after the special tokens; texts are split at blanks.

    words: each once; if a line break is among them it is a word, otherwise it separates words like a blank.
    chat_template: None for a tokenizer without one. Every text begins with `<start>`.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if len(set(words)) != len(words) or set(words) & set(SPECIAL):
        raise ValueError("The words of a world must differ from each other and from the special tokens.")
    numbers = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.Split(Regex(r" +"), "removed")]
        if "\n" in numbers
        else [pre_tokenizers.WhitespaceSplit()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, numbers[START])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PADDING, unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = chat_template
    return fast
