"""Facts from a model's files, without loading it: architecture, size, and tokens per character of text."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.libraries.releases import has_architecture, installed
from zoo.models.default import NAME
from zoo.models.names import Source, look_for, missing_parts, read_config, read_header
from zoo.models.vocabulary import opened, rows_in
from zoo.numbers import amount
from zoo.options.checks import NEW_ADAPTERS, check_kind
from zoo.options.config import TrainConfig
from zoo.paths import typed_path

TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model",
)  # fmt: skip
"""Files by which a folder has a tokenizer."""
SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files beside config.json that hold an object."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""The ends of what most architectures call the embedding of tokens."""
CHARACTERS_A_TOKEN = 4.0
"""Of English, without a tokenizer."""
SAMPLE = 64
DEFAULT_WEIGHTS = 134_515_008
"""Of the default model, which may not be here yet."""
MOST_BASES = 5
"""Adapters on adapters on …: from here on they are taken for a circle."""
UNGATED = frozenset({
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "starcoder2", "codegen",
    "mpt",
})  # fmt: skip
"""Architectures whose feed-forward part has two matrices and no gate."""
TIED = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "opt", "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "mpt"})
"""Architectures whose head is the embedding where their configuration says nothing."""
LEARNED_POSITIONS = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "opt"})


def describe(folder: Path) -> str:
    """`llama, 30 layers, 134.5 M weights`, `qwen2, 28 layers, about 7.62 B weights`."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return f"adapters on {read_config(adapter).get('base_model_name_or_path', 'an unnamed model')}"
    config = read_config(folder / "config.json")
    layers, (weights, exact) = config.get("num_hidden_layers"), weights_in(folder)
    parts = [str(config.get("model_type", "of an unnamed architecture"))]
    parts += [amount(layers, "layer")] if isinstance(layers, int) else []
    size = f"{weights / 1e9:.2f} B" if weights >= 1e9 else f"{weights / 1e6:.1f} M"
    parts += [f"{'' if exact else 'about '}{size} weights"] if weights else []
    return ", ".join(parts)


# -- the number of weights -----------------------------------------------------------------------------------------


def weights_of(name: str, out: str) -> float | None:
    """Weights of a model by its name; None where its files are not here. Loads and fetches nothing, raises nothing.

    out: as of `look_for`. Adapters are as large as their base.
    """
    for _ in range(MOST_BASES):
        if name == NAME:
            return DEFAULT_WEIGHTS
        folder = _folder_of(name, out)
        if folder is None:
            return None
        try:
            if not (folder / "adapter_config.json").is_file():
                return weights_in(folder)[0] or None
            name = str(read_config(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        except ZooError:
            return None
    return None


def adapter_options(name: str, out: str) -> dict[str, Any]:
    """The options that the adapters of a model were made with; empty where they are not here."""
    folder = _folder_of(name, out)
    if folder is None or not (folder / "adapter_config.json").is_file():
        return {}
    settings = read_config(folder / "adapter_config.json")
    return {
        "lora_rank": settings.get("r") or 1, "lora_targets": settings.get("target_modules") or "all-linear",
        "lora_kind": _kind(settings), "train_modules": settings.get("modules_to_save") or [],
    }  # fmt: skip


def _kind(settings: dict[str, Any]) -> str:
    """The kind of adapters as `--lora-kind` names it. Those of pissa are saved as plain ones."""
    return "+".join(kind for kind in ("dora", "rslora") if settings.get(f"use_{kind}")) or "lora"


def check_going_on(core: TrainConfig, source: Source, head: str, adds_tokens: bool) -> None:
    """Raises ZooError where the adapters that a model came with cannot be trained further, by their files.

    head: as of `load_policy`; adds_tokens: the model is to get new tokens.
    """
    instead = f"{NEW_ADAPTERS}."
    if head == "scalar":
        raise ZooError("--lora-continue is for language models: a scorer has a head to train beside.", instead)
    if not source.is_adapter:
        raise ZooError(f"--lora-continue: {source.name} has no adapters.", instead)
    assert source.folder is not None
    settings = read_config(source.folder / "adapter_config.json")
    if (kind := settings.get("peft_type", "LORA")) != "LORA":
        raise ZooError(f"--lora-continue is for LoRA, and the adapters of {source.name} are {kind}.", instead)
    if adds_tokens:
        raise ZooError("--lora-continue: adapters that are there cannot get rows for new tokens.", instead)
    check_kind(core, _kind(settings), source.name)


def configured(name: str, out: str) -> Path | None:
    """The folder with the configuration of a model, or of the base of adapters, with or without weights; else None."""
    for _ in range(MOST_BASES):
        folder = _folder_of(name, out)
        try:
            if folder is None or not (folder / "adapter_config.json").is_file():
                return folder
            name = str(read_config(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        except ZooError:
            return None
    return None


def _folder_of(name: str, out: str) -> Path | None:
    """Where a model's files are. A folder without weights counts: its configuration tells the size."""
    try:
        return look_for(name, out).source.folder
    except ZooError:
        path = typed_path(name)
        return path if (path / "config.json").is_file() else None


def weights_in(folder: Path) -> tuple[int, bool]:
    """Weights of the model in a folder, and whether they were counted; 0 where nothing tells.

    They are counted in what safetensors files begin with. Where these are not there, or hold packed numbers, they are
    estimated from the configuration. A head that is tied to the embedding counts once.
    """
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    shapes: dict[str, list[int]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        for file in folder.glob("*.safetensors"):
            shapes |= {name: about["shape"] for name, about in read_header(file)[0].items()}
    if not shapes or "quantization_config" in config or missing_parts(folder):
        return estimate(config), False
    if config.get("tie_word_embeddings"):
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith("lm_head.weight")}
    return sum(map(math.prod, shapes.values())), True


def estimate(config: dict[str, Any]) -> int:
    """Weights of a decoder by its configuration; 0 where that does not say enough."""

    def number(*names: str, otherwise: int = 0) -> int:
        found = next((config[name] for name in names if config.get(name) is not None), otherwise)
        return int(found) if isinstance(found, int | float) else otherwise

    if "text_config" in config:
        config = {**config, **config["text_config"]}
    kind = str(config.get("model_type"))
    width, layers = number("hidden_size", "n_embd", "d_model"), number("num_hidden_layers", "n_layer", "num_layers")
    words, heads = number("vocab_size"), number("num_attention_heads", "n_head", "num_heads", "n_heads", otherwise=1)
    size = number("head_dim", otherwise=width // max(1, heads))
    shared = 1 if config.get("multi_query") else number("num_key_value_heads", "num_kv_heads", otherwise=heads)
    attention = 2 * width * size * (heads + shared)
    inner = number("intermediate_size", "n_inner", "ffn_dim", otherwise=4 * width)
    # Of a gate, up and down; older architectures have no gate, and a bias for every output.
    matrices = 2 if kind in UNGATED else 3
    dense = matrices * width * inner
    experts = number("num_local_experts", "num_experts", "n_routed_experts")
    narrow = number("moe_intermediate_size", otherwise=inner)
    beside = number("shared_expert_intermediate_size", otherwise=narrow * number("n_shared_experts"))
    sparse = matrices * width * (experts * narrow + beside) + experts * width
    plain = min(layers, number("first_k_dense_replace")) if experts else layers
    biases = size * (heads + 2 * shared) if kind in ("qwen2", "qwen2_moe") or config.get("attention_bias") else 0
    norms = 2 * width
    if kind in UNGATED:
        biases, norms = size * (heads + 2 * shared) + 2 * width + inner, 4 * width
    tied = config.get("tie_word_embeddings", kind in TIED)
    positions = number("n_positions", "max_position_embeddings") * width if kind in LEARNED_POSITIONS else 0
    body = layers * (attention + biases + norms) + plain * dense + (layers - plain) * sparse + norms // 2
    return body + words * width * (1 if tied else 2) + positions if width and layers and words else 0


def check_files(name: str, folder: Path) -> None:
    """Raises ZooError for files that are cut off or damaged, an unknown architecture, or no tokenizer."""
    for file in SETTINGS:
        if (folder / file).is_file():
            read_config(folder / file)
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = config.get("model_type")
    if kind and "auto_map" not in config and not has_architecture(str(kind)):
        raise ZooError(
            f"{folder}/config.json names the architecture '{kind}', which transformers {installed('transformers')} "
            "does not have.",
            "Correct model_type, or take a model of another architecture.",
        )
    _check_weights(folder, config)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ZooError(
            f"The model {name} has no tokenizer: none of {', '.join(TOKENIZERS)} is in {folder}.",
            "Copy the tokenizer's files into that folder (tokenizer.save_pretrained writes them).",
        )
    if (folder / "tokenizer.json").is_file() and opened(folder / "tokenizer.json") is None:
        raise ZooError(f"{folder}/tokenizer.json is damaged: it holds no tokenizer.", "Copy or download it again.")


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Raises ZooError for weights that are cut off, and for an embedding of another size than config.json says."""
    rows = rows_in(config)
    if rows is None and "vocab_size" in config:
        raise ZooError(
            f"vocab_size in {folder}/config.json is {json.dumps(config['vocab_size'])}, which is no number of tokens.",
            "Correct it: it is the number of rows of the embedding.",
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            header, needed = read_header(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            raise ZooError(f"{file} is damaged: it is no safetensors file.", "Copy or download it again.") from None
        if (size := file.stat().st_size) < needed:
            raise ZooError(
                f"{file} is cut off: it has {size:,} bytes of {needed:,}.", "Copy or download the model again."
            )
        there = [about["shape"][0] for weight, about in header.items() if weight.endswith(EMBEDDINGS)]
        if rows is not None and there and there[0] != rows and "quantization_config" not in config:
            raise ZooError(
                f"{folder}/config.json says vocab_size {rows:,}, and the embedding in {file.name} has {there[0]:,} "
                "rows.",
                "Copy the two from the same model.",
            )


def tokens_a_character(folder: Path | None, texts: Sequence[str]) -> float:
    """Tokens per character, by the model's own tokenizer on a few of the texts, else those of English."""
    some = [text for text in texts[:SAMPLE] if text]
    if folder is None or not some:
        return 1 / CHARACTERS_A_TOKEN
    tokenizer = opened(folder / "tokenizer.json")
    if tokenizer is None:
        return 1 / CHARACTERS_A_TOKEN
    return sum(len(encoded.ids) for encoded in tokenizer.encode_batch(some)) / sum(map(len, some))
