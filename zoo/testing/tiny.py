"""A tiny tokenizer, a tiny model, rows of every kind and a reward, all made in code, for fast tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.rewards.functions import in_process

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = "red blue green one two three cat dog sun moon here there".split()


def make_tokenizer() -> Any:
    """One token per byte, `<|im_start|>`, `<|im_end|>` (also the EOS and padding token), and a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def make_model(vocabulary: int, end: int, seed: int = 0) -> Any:
    """A two-layer Llama with grouped queries, far from uniform, so that a wrong mask or position shows.

    vocabulary: number of tokens; end: the id of the EOS and padding token. A seed always gives the same weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()


def write_folder(folder: Path, seed: int = 0) -> Path:
    """The tiny model and tokenizer as a Hugging Face folder; returns the folder. Another seed gives another model."""
    from zoo.libraries.pretrained import save

    tokenizer = make_tokenizer()
    save(make_model(len(tokenizer), tokenizer.eos_token_id, seed), folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- rows --------------------------------------------------------------------------------------------------------


def tiny_rows(kind: str, count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """`count` rows of a kind of data, as in a file; every prompt occurs in two rows.

    Texts differ in length, and with at least three rows a feedback set has both labels.
    """
    source = random.Random(seed)
    prompts = [f"{_words(source, 1, 6)} {i}" for i in range((count + 1) // 2)]
    return [_ROWS[kind](prompts[i // 2], i, source) for i in range(count)]


def _words(source: random.Random, low: int, high: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(source.randint(low, high)))


def _preference(prompt: str, i: int, source: random.Random) -> dict[str, Any]:
    # Sometimes the chosen answer is longer, sometimes the rejected one.
    return {"prompt": prompt, "chosen": f"{_words(source, 1, 6)} {i}", "rejected": _words(source, 2, 7)}


def _ranking(prompt: str, i: int, source: random.Random) -> dict[str, Any]:
    answers = [f"{_words(source, 1, 5)} {k}" for k in range(3)]
    # Every third row has a tie.
    return {"prompt": prompt, "completions": answers, "ranks": [2, 1, 3] if i % 3 else [1, 2, 2]}


def _stepwise(prompt: str, i: int, source: random.Random) -> dict[str, Any]:
    steps = [_words(source, 1, 4) for _ in range(1 + i % 3)]
    return {"prompt": f"{prompt} {i}", "steps": steps, "labels": [1] * (len(steps) - 1) + [1 if i % 2 else -1]}


_ROWS: dict[str, Callable[[str, int, random.Random], dict[str, Any]]] = {
    "demonstration": lambda prompt, i, source: {"prompt": prompt, "completion": f"{_words(source, 1, 8)} {i}"},
    "preference": _preference,
    "feedback": lambda prompt, i, source: {
        "prompt": prompt,
        "completion": f"{_words(source, 1, 8)} {i}",
        "label": i % 3 != 1,
    },
    # Some algorithms also learn from a text that comes with a prompt.
    "prompt": lambda prompt, i, source: {"prompt": f"{prompt} {i}", "demonstration": _words(source, 1, 3)},
    "ranking": _ranking,
    "stepwise": _stepwise,
    "text": lambda prompt, i, source: {"text": f"{_words(source, 4, 12)} {i}"},
}


# -- a reward ----------------------------------------------------------------------------------------------------


@in_process
def tiny_reward(completions: Sequence[str], records: Sequence[Any]) -> list[float | None]:
    """The share of an answer's characters with codes below 80; missing for about every eighth answer.

    Use it as `--reward zoo.testing.tiny:tiny_reward`. The tiny model's own answers get rewards between 0 and 1.
    """
    rewards: list[float | None] = []
    for text in completions:
        early = sum(ord(letter) < 80 for letter in text)
        rewards.append(None if sum(map(ord, text)) % 8 == 5 else early / max(len(text), 1))
    return rewards
