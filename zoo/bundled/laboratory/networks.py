"""The tiny network of all worlds, as an ordinary Hugging Face folder: fresh, or trained on a world's texts.

Equal arguments give bit-equal weights on the same machine with the same versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.pretrained import save
from zoo.paths import cache_folder, unique_beside

Say = Callable[[str], None]
POSITIONS, HEAD = 512, 12
"""Most tokens in a text, and the size of an attention head."""


def make_network(tokenizer: Any, width: int = 48, layers: int = 2, seed: int = 0, uniform: bool = False) -> Any:
    """A Llama with fresh weights, about 60,000 for a few dozen words. The width is split into heads of 12.

    tokenizer: its words and special tokens are the network's vocabulary; seed: equal seeds give equal weights; uniform:
    a separate output layer of zeros, so that all tokens are equally likely at first.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // HEAD)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=POSITIONS,
        initializer_range=width**-0.5,
        tie_word_embeddings=not uniform,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with repeatable(seed):
        model = LlamaForCausalLM(config).float()
    if uniform:
        torch.nn.init.zeros_(model.lm_head.weight)
    return model


def train_base(
    tokenizer: Any,
    texts: Sequence[str],
    seed: int = 0,
    *,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 3e-3,
    say: Say = print,
    **network: Any,
) -> Any:
    """A network trained as a language model on `texts`, each a document with its start and end, in a plain loop.

    steps: of AdamW, over `batch` documents each; lr: highest learning rate, reached after 5 % of the steps and 0 at the
    end; network: arguments of `make_network`. The model is returned in eval mode.
    """
    model = make_network(tokenizer, seed=seed, **network)
    documents = [torch.tensor([*ids, tokenizer.eos_token_id]) for ids in tokenizer(list(texts))["input_ids"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, steps // 20)
    shape = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - step / steps)
    )
    with repeatable(seed):
        for step, chosen in enumerate(draw(len(documents), batch, steps)):
            loss = model(**padded([documents[i] for i in chosen], tokenizer.pad_token_id)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            shape.step()
            if (step + 1) % max(1, steps // 5) == 0:
                say(f"  step {step + 1:,} of {steps:,}: loss {loss.item():.3f}")
    return model.eval()


def draw(count: int, batch: int, steps: int) -> Iterator[list[int]]:
    """The document indices of each step: each pass has a new order, from torch's global random numbers."""
    left: list[int] = []
    for _ in range(steps):
        while len(left) < batch:
            left += torch.randperm(count).tolist()
        yield left[:batch]
        del left[:batch]


def padded(documents: Sequence[Tensor], pad: int) -> dict[str, Tensor]:
    """Documents as a batch with labels. Padding comes last, where causal attention never looks."""
    ids = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True, padding_value=pad)
    return {"input_ids": ids, "labels": ids.masked_fill(ids == pad, -100)}


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Random numbers from a seed, on one thread (which is also faster for such a network); restores both afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def kept(name: str, facts: dict[str, Any], make: Callable[[], tuple[Any, Any]]) -> Path:
    """The folder of a model and its tokenizer, made by `make` unless it is in zoo's cache.

    name: the beginning of the folder's name; facts: everything that the model depends on, whose hash ends the folder's
    name. The folder appears complete or not at all.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    folder = cache_folder() / "worlds" / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    model, tokenizer = make()
    with unique_beside(folder) as beside:
        beside.mkdir()
        write(model, tokenizer, beside)
        # If another process was faster, its folder holds the same weights.
        with contextlib.suppress(OSError):
            os.rename(beside, folder)
    return folder


def write(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder."""
    save(model, folder)
    tokenizer.save_pretrained(folder)
