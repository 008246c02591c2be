"""What fits where, by the preflight's arithmetic: models of 0.1 to 70 B weights on one GPU and on several.

    python benchmarks/what_fits.py             ways to train on one GPU and on eight
    python benchmarks/what_fits.py --groups    sharded and tensor-parallel, on one to 128 GPUs

Nothing is trained and no weights are made. Each number is what a GPU holds at its peak in supervised fine-tuning, with
micro-batches of 4,096 tokens in rows of 1,024, bf16-mixed and recomputed activations.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo.optimizers.chosen import OPTIMIZERS
from zoo.options.config import TrainConfig
from zoo.training.preflight import Plan, Texts, of_plan

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096}
NAMES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip
SIZES = {
    "0.13 B": (576, 1536, 30, 9, 3, 49152, True),
    "1.2 B": (2048, 8192, 16, 32, 8, 128256, True),
    "6.7 B": (4096, 11008, 32, 32, 32, 32000, False),
    "13 B": (5120, 13824, 40, 40, 40, 32000, False),
    "71 B": (8192, 28672, 80, 64, 8, 128256, False),
}
"""The shapes of SmolLM2, Llama 3.2, Llama 2 and Llama 3.1, by their weights."""
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, `bf16-true`, adafactor": {"precision": "bf16-true", "optimizer": "adafactor"},
    "LoRA": {"lora": True},
    "QLoRA, `nf4`": {"lora": True, "quantize": "nf4"},
}
SHARED: dict[str, Any] = {"strategy": "fsdp"}
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "1, `--lora`": (1, {"lora": True}),
    "1": (1, {}),
    "8": (8, SHARED),
    "8, groups of 2": (8, {**SHARED, "tensor_parallel": 2}),
    "8, `--lora`": (8, {**SHARED, "lora": True}),
    "32": (32, SHARED),
    "32, groups of 8": (32, {**SHARED, "tensor_parallel": 8}),
    "128": (128, SHARED),
    "128, groups of 8": (128, {**SHARED, "tensor_parallel": 8}),
}
"""GPUs and options by the name of a column."""
CARDS = 8
SHARE = 0.9
"""Of a card's memory that a run may take: the rest goes to the driver, to libraries, and to gaps between tensors."""
HEAD = [
    "weights", "way", "GB on one", "GB on each of 8", "1 × 24 GB", "1 × 80 GB", "8 × 24 GB", "8 × 80 GB",
]  # fmt: skip
TEXTS = Texts(prompt=200, completion=800, answers=1, longest=1024)


def needed(folder: Path, options: dict[str, Any], cards: int = 1) -> float:
    """GB on each card."""
    given = {"gradient_checkpointing": True, "batch_size": 4 * cards, "micro_tokens": 4096, "precision": "bf16-mixed"}
    here = min(cards, CARDS)
    given |= {"devices": here, "num_nodes": cards // here}
    core = TrainConfig(**{**given, **options})
    optimizer = OPTIMIZERS.choose(core.optimizer, OPTIMIZERS.bundled)
    plan = Plan(core, {"policy": folder}, TEXTS, optimizer, False, 100, "cuda", core.precision, cards, here)
    return of_plan(plan).peak / 1e9


def row(size: str, way: str, folder: Path) -> str:
    one = needed(folder, WAYS[way])
    # Quantised weights are not shared out: each card has them.
    many = one if "quantize" in WAYS[way] else needed(folder, {**WAYS[way], **SHARED}, CARDS)
    fits = [of <= SHARE * card for of, card in ((one, 24), (one, 80), (many, 24), (many, 80))]
    return f"| {size} | {way} | {one:,.1f} | {many:,.1f} | {' | '.join('yes' if fit else '–' for fit in fits)} |"


def by_ways(size: str, folder: Path) -> list[str]:
    return [row(size, way, folder) for way in WAYS]


def by_settings(size: str, folder: Path) -> list[str]:
    each = [f"{needed(folder, options, cards):,.0f}" for cards, options in SETTINGS.values()]
    return [f"| {size} | {' | '.join(each)} |"]


def main() -> None:
    groups = "--groups" in sys.argv
    titles = ["weights", *SETTINGS] if groups else HEAD
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for size, shape in SIZES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            config = {**LLAMA, **dict(zip(NAMES, shape, strict=True))}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            print("\n".join((by_settings if groups else by_ways)(size, folder)), flush=True)


if __name__ == "__main__":
    main()
