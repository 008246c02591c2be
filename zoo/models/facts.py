"""Facts from a model's files, without loading it: architecture, size, and tokens per character of text."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.libraries.releases import has_architecture, installed
from zoo.models.names import read_config

TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model",
)  # fmt: skip
"""Files by which a folder has a tokenizer."""
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
    return sum(math.prod(about["shape"]) for about in _header(file)[0].values())


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each of its weights, and the bytes that it then must have."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length + max((about["data_offsets"][1] for about in header.values()), default=0)


def check_files(name: str, folder: Path) -> None:
    """Raises ZooError for a folder with weights that are cut off, an unknown architecture, or no tokenizer."""
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = config.get("model_type")
    if kind and "auto_map" not in config and not has_architecture(str(kind)):
        raise ZooError(
            f"{folder}/config.json names the architecture '{kind}', which transformers {installed('transformers')} "
            "does not have.",
            "Correct model_type, or take a model of another architecture.",
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            needed = _header(file)[1]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            raise ZooError(f"{file} is damaged: it is no safetensors file.", "Copy or download it again.") from None
        if (size := file.stat().st_size) < needed:
            raise ZooError(
                f"{file} is cut off: it has {size:,} bytes of {needed:,}.", "Copy or download the model again."
            )
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ZooError(
            f"The model {name} has no tokenizer: none of {', '.join(TOKENIZERS)} is in {folder}.",
            "Copy the tokenizer's files into that folder (tokenizer.save_pretrained writes them).",
        )


def check_targets(name: str, folder: Path, targets: Sequence[str]) -> None:
    """Raises ZooError for a --lora-targets that names no layer of a model whose weights can be listed."""
    try:
        headers = [_header(file)[0] for file in folder.glob("*.safetensors")]
        layers = [name for header in headers for name, about in header.items() if len(about["shape"]) == 2]
    except (OSError, ValueError, KeyError, struct.error):
        return
    if any(".experts." in layer for header in headers for layer in header):
        # Files have the weights of experts one by one, and under other names than the loaded model.
        return
    # A head that shares the weights of the embeddings is in no file.
    names = {layer.removesuffix(".weight").rpartition(".")[2] for layer in layers} | {"lm_head"}
    patterns = any(re.fullmatch(r"\w+", target) is None for target in targets)
    if names and not patterns and not names & set(targets):
        raise ZooError(
            f"--lora-targets {','.join(targets)} names no layer of {name}.",
            f"Its layers are called {', '.join(sorted(names))}; all-linear takes all linear ones but the head.",
        )


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
