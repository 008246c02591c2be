"""Which setting for which size of model: what each GPU holds, by the preflight's arithmetic. Nothing of it was run.

    python benchmarks/sizes.py            # all sizes
    python benchmarks/sizes.py 7b 70b     # some of them

Llama-like models from a configuration alone, fine-tuned (sft) on texts of 2,048 tokens in bf16-mixed with AdamW and
gradient checkpointing, micro-batches of 4,096 tokens. Prints 10⁹ bytes of a GPU at the peak of a step.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

SIZES = {
    "1.5b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20, "num_attention_heads": 16,
             "num_key_value_heads": 8, "vocab_size": 128256},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 30, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "14b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "vocab_size": 152064},
    "32b": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
            "num_key_value_heads": 8, "vocab_size": 152064},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
LORA: dict[str, Any] = {"lora": True}
SHARED: dict[str, Any] = {"strategy": "fsdp"}
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "1, `--lora`": (1, LORA),
    "1": (1, {}),
    "8": (8, SHARED),
    "8, groups of 2": (8, {**SHARED, "tensor_parallel": 2}),
    "8, `--lora`": (8, {**SHARED, **LORA}),
    "32": (32, SHARED),
    "32, groups of 8": (32, {**SHARED, "tensor_parallel": 8}),
    "128": (128, SHARED),
    "128, groups of 8": (128, {**SHARED, "tensor_parallel": 8}),
}
"""GPUs and options by the name of a column; several GPUs with FSDP2."""


def peak(folder: Path, processes: int, options: dict[str, Any]) -> float:
    """10⁹ bytes of a GPU."""
    from zoo.training.preflight import Plan, Texts, of_plan
    from zoo.training.run import resolve_options

    given = {
        "batch_size": 256, "micro_tokens": 4096, "gradient_checkpointing": True, "save_every": 0, **options,
        "devices": min(processes, 8), "num_nodes": max(1, processes // 8),
    }  # fmt: skip
    resolved, _ = resolve_options("sft", None, {"model": str(folder), **given}, "here")
    texts = Texts(prompt=1024, completion=1024, answers=1, longest=2048)
    plan = Plan(resolved.core, {"policy": folder}, texts, adamw(), False, 100, "cuda", "bf16-mixed", processes, 8)
    return of_plan(plan).peak / 1e9


def adamw() -> Any:
    from zoo.optimizers.chosen import OPTIMIZERS

    return OPTIMIZERS.choose("adamw", OPTIMIZERS.bundled)


def make_folder(folder: Path, sizes: dict[str, int]) -> Path:
    """A configuration, and nothing else."""
    from transformers import LlamaConfig

    LlamaConfig(**sizes, tie_word_embeddings=False).save_pretrained(folder)
    return folder


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"| model | {' | '.join(SETTINGS)} |\n|---|{'---|' * len(SETTINGS)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for size in sys.argv[1:] or SIZES:
            folder = make_folder(Path(place) / size, SIZES[size])
            held = [f"{peak(folder, *setting):.0f}" for setting in SETTINGS.values()]
            print(f"| {size} | {' | '.join(held)} |", flush=True)


if __name__ == "__main__":
    main()
