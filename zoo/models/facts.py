"""Facts from a model's files, without loading it: architecture, size, and tokens per character of text."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path

from zoo.models.names import read_config

CHARACTERS_A_TOKEN = 4.0
"""Of English, without a tokenizer."""
SAMPLE = 64


def describe(folder: Path) -> str:
    """`llama, 30 layers, 134.5 M weights`."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return f"adapters on {read_config(adapter).get('base_model_name_or_path', 'an unnamed model')}"
    config = read_config(folder / "config.json")
    layers, weights = config.get("num_hidden_layers"), weights_in(folder)
    parts = [str(config.get("model_type", "of an unnamed architecture"))]
    parts += [f"{layers} layers"] if layers else []
    parts += [f"{weights / 1e6:,.1f} M weights"] if weights else []
    return ", ".join(parts)


def weights_in(folder: Path) -> int:
    """Weights in a folder's safetensors files, by what these begin with; 0 where that cannot be read."""
    try:
        return sum(_weights(file) for file in folder.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, struct.error):
        return 0


def _weights(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(about["shape"]) for name, about in header.items() if name != "__metadata__")


def tokens_a_character(folder: Path | None, texts: Sequence[str]) -> float:
    """Tokens per character, by the model's own tokenizer on a few of the texts, else those of English."""
    some = [text for text in texts[:SAMPLE] if text]
    if folder is None or not some or not (folder / "tokenizer.json").is_file():
        return 1 / CHARACTERS_A_TOKEN
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The library raises one class for every problem with the file.
    except Exception:
        return 1 / CHARACTERS_A_TOKEN
    return sum(len(encoded.ids) for encoded in tokenizer.encode_batch(some)) / sum(map(len, some))
