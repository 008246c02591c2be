"""The preflight against measured peaks: what it says a run needs, and the memory that the run then takes.

    python benchmarks/memory.py                   all configurations, a process each
    python benchmarks/memory.py --only sft-10m    one of them; may be repeated
    python benchmarks/memory.py --heap            with the C library's own way of keeping freed memory

Models are made from configurations, with random weights and a tokenizer of bytes. The peak is the kernel's mark of the
largest resident memory of a run, less that of the moment when the preflight was made, at which the program is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = {
    "10m": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 8192},
    "50m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32768},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152},
    "400m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 49152},
}
"""Llamas with tied embeddings."""
SCRIPT = Path(__file__).resolve()
LORA = {"lora": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft-10m": ("sft", "10m", {}),
    "sft-50m-lora": ("sft", "50m", LORA),
    "dpo-50m-adafactor": ("dpo", "50m", {"optimizer": "adafactor"}),
    "dpo-50m-lora-mixed": ("dpo", "50m", {**LORA, "precision": "bf16-mixed"}),
    "dpo-135m": ("dpo", "135m", {}),
    "sft-135m-recomputed-lion": ("sft", "135m", {"optimizer": "lion", "gradient_checkpointing": True}),
    "ppo-50m": ("ppo", "50m", {}),
    "grpo-50m-lora": ("grpo", "50m", {**LORA, "answers_per_prompt": 4}),
    "sft-400m": ("sft", "400m", {"batch_size": 2}),
    "dpo-400m-lora": ("dpo", "400m", {**LORA, "batch_size": 2}),
}
"""Algorithm, size and options."""


def resident(field: str) -> int:
    """This process's resident memory in bytes: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) * 1024


def make_folder(folder: Path, size: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from zoo.testing.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    sizes = dict(SIZES[size])
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        **sizes, intermediate_size=8 * sizes["hidden_size"] // 3, num_key_value_heads=sizes["num_attention_heads"],
        tie_word_embeddings=True, max_position_embeddings=2048, eos_token_id=end, pad_token_id=end, bos_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(file: Path, algo: str) -> None:
    source = random.Random(0)

    def text(length: int) -> str:
        return "".join(source.choice("abcdefgh ") for _ in range(length))

    names = {"dpo": ("chosen", "rejected"), "sft": ("completion",)}.get(algo, ())
    rows = [{"prompt": text(100), **{name: text(120) for name in names}} for _ in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_case(name: str, place: Path, dry: bool) -> None:
    """Train in this process; prints the bytes that were said and those that were taken. dry: only look ahead."""
    import lightning  # noqa: F401
    import peft  # noqa: F401

    import zoo
    from zoo.training import execution, outlook, run  # noqa: F401

    algo, size, options = CASES[name]
    begun: dict[str, Any] = {}
    look = outlook.preflight

    def preflight(*arguments: Any) -> Any:
        begun["need"] = look(*arguments)
        begun["bytes"] = resident("VmRSS")
        # The kernel's mark of the most so far is set back.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return begun["need"]

    outlook.preflight = preflight
    online = {"reward": "length(target=20)", "max_new_tokens": 64} if algo in ("ppo", "grpo") else {}
    given = {"batch_size": 8, "max_steps": 2, "eval_fraction": 0.0, "score": "none", "precision": "32-true"}
    given |= {"model": str(place / "model"), "data": str(place / "rows.jsonl"), "out": str(place / "runs")}
    given |= {"template": "none", **online, **options}
    if dry:
        make_folder(place / "model", size)
        write_rows(place / "rows.jsonl", algo)
        outlook.look_ahead(*run.resolve_options(algo, None, given, "keyword argument"))
        return
    zoo.train(algo, quiet=True, **given)
    print(
        json.dumps({"said": begun["need"].peak, "taken": resident("VmHWM") - begun["bytes"], **begun["need"].as_json()})
    )


def compare(name: str, heap: bool) -> None:
    """A look ahead in a process of its own, whose memory would count, then the run; prints a line."""
    settings = {"OMP_NUM_THREADS": "1"}
    if not heap:
        # Else the C library keeps freed tensors of up to 32 MB, in pieces that the next ones may not fit into.
        settings["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with tempfile.TemporaryDirectory() as place:
        for how in (["--dry"], []):
            command = [sys.executable, str(SCRIPT), "--case", name, "--place", place, *how]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
            if done.returncode:
                print(f"{name:<26}{(done.stderr.strip().splitlines() or ['it was killed'])[-1]}", flush=True)
                return
    row = json.loads(done.stdout.splitlines()[-1])
    said, taken = row["said"] / 1e9, row["taken"] / 1e9
    print(f"{name:<26}{said:>10.2f}{taken:>11.2f}{said / taken:>14.2f}", flush=True)
    if os.environ.get("ZOO_PARTS"):
        print("  ", {key: row[key] for key in ("parts", "phases", "micro_tokens")}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--heap", action="store_true", help="with the C library's own way of keeping freed memory")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        run_case(given.case, Path(given.place), given.dry)
        return
    print(f"{'run':<26}{'said, GB':>10}{'taken, GB':>11}{'said / taken':>14}", flush=True)
    for name in given.only or CASES:
        compare(name, given.heap)


if __name__ == "__main__":
    main()
