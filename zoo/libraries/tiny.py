"""A language model with a few thousand parameters, for the checks of this package."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
"""A text of the tiny model, [1, 8]."""


def make_tiny(cls: str = "Llama", **options: Any) -> Any:
    """A new model of a transformers architecture, in eval mode; two layers, 16 tokens, always the same weights."""
    import transformers

    sizes = {
        "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.5,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    config = getattr(transformers, f"{cls}Config")(**{**sizes, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{cls}ForCausalLM")(config).float().eval()


@cache
def tiny_model() -> Any:
    """A shared model for all checks that only read it."""
    return make_tiny()
