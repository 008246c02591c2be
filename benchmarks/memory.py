"""The preflight against measured peaks: what it says a run needs, and the memory that the run then takes.

    python benchmarks/memory.py                   all configurations, a process each
    python benchmarks/memory.py --only sft-10m    one of them; may be repeated
    python benchmarks/memory.py --sharded         the runs that share out a model among 1, 2 and 4 processes
    python benchmarks/memory.py --heap            with the C library's own way of keeping freed memory

Models are made from configurations, with random weights and a tokenizer of bytes. The peak is the kernel's mark of the
largest resident memory of a process, less that of the moment when the program is loaded and the processes are
connected.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
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
SHARDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{algo}-400m-fsdp-{processes}": (
        algo,
        "400m",
        # One layout is not compared with another, which is many passes.
        {"batch_size": 4, "strategy": "fsdp", "devices": processes, "layout": "padded", **more},
    )
    for algo, more in (("sft", {}), ("dpo", {}), ("ppo", {"max_new_tokens": 8}))
    for processes in (1, 2, 4)
}


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


def write_rows(file: Path, algo: str, longest: int = 120) -> None:
    source = random.Random(0)

    def text(length: int) -> str:
        return "".join(source.choice("abcdefgh ") for _ in range(length))

    names = {"dpo": ("chosen", "rejected"), "sft": ("completion",)}.get(algo, ())
    rows = [{"prompt": text(5 * longest // 6), **{name: text(longest) for name in names}} for _ in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_case(name: str, place: Path, dry: bool) -> None:
    """Train in this process; prints the bytes that were said and those that were taken. dry: only look ahead."""
    import lightning  # noqa: F401
    import peft  # noqa: F401

    import zoo
    from zoo.training import execution, outlook, run

    algo, size, options = {**CASES, **SHARDED}[name]
    begun: dict[str, Any] = {}
    look, connect = outlook.preflight, execution.Execution._connect

    def preflight(*arguments: Any) -> Any:
        begun["need"] = look(*arguments)
        return begun["need"]

    def connected(*arguments: Any) -> None:
        connect(*arguments)
        begun["bytes"] = resident("VmRSS")
        # The kernel's mark of the most so far is set back.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    outlook.preflight = preflight
    execution.Execution._connect = connected  # type: ignore[method-assign]
    online = {"reward": "length(target=20)", "max_new_tokens": 64} if algo in ("ppo", "grpo") else {}
    given = {"batch_size": 8, "max_steps": 2, "eval_fraction": 0.0, "score": "none", "precision": "32-true"}
    given |= {"model": str(place / "model"), "data": str(place / "rows.jsonl"), "out": str(place / "runs")}
    given |= {"template": "none", **online, **options}
    if dry:
        make_folder(place / "model", size)
        write_rows(place / "rows.jsonl", algo, 30 if name in SHARDED else 120)
        outlook.look_ahead(*run.resolve_options(algo, None, given, "keyword argument"))
        return
    zoo.train(algo, quiet=True, **given)
    said = {"said": begun["need"].peak, **begun["need"].as_json()} if "need" in begun else {}
    print(json.dumps({"taken": resident("VmHWM") - begun["bytes"], **said}))


def compare(name: str, heap: bool) -> None:
    """A look ahead in a process of its own, whose memory would count, then the run; prints a line for each process."""
    settings = {"OMP_NUM_THREADS": "1"}
    if not heap:
        # Else the C library keeps freed tensors of up to 32 MB, in pieces that the next ones may not fit into.
        settings["MALLOC_MMAP_THRESHOLD_"] = "65536"
    processes = {**CASES, **SHARDED}[name][2].get("devices", 1)
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(SCRIPT), "--case", name, "--place", place]
        lines = together([*command, "--dry"], [settings]) and together(command, places(settings, processes))
    if lines is None:
        print(f"{name:<26}failed", flush=True)
        return
    rows = [json.loads(line) for line in lines]
    said = rows[0]["said"] / 1e9
    for rank, row in enumerate(rows):
        taken = row["taken"] / 1e9
        label = f"{name} #{rank}" if processes > 1 else name
        print(f"{label:<26}{said:>10.2f}{taken:>11.2f}{said / taken:>14.2f}", flush=True)
    if os.environ.get("ZOO_PARTS"):
        print("  ", {key: rows[0][key] for key in ("parts", "phases", "micro_tokens")}, flush=True)


def places(settings: dict[str, str], processes: int) -> list[dict[str, str]]:
    """The environments of processes that torchrun starts."""
    if processes == 1:
        return [settings]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "WORLD_SIZE": str(processes), "MASTER_PORT": port}
    common |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(processes), **settings}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def together(command: list[str], environments: list[dict[str, str]]) -> list[str] | None:
    """The last lines that processes print, which are started at the same time; None if one fails, which is told."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, env={**os.environ, **more}, **pipes) for more in environments]
    told = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, told, strict=True):
        if child.returncode:
            print((errors.strip().splitlines() or ["it was killed"])[-1], flush=True)
    return None if any(child.returncode for child in children) else [(out.splitlines() or [""])[-1] for out, _ in told]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*CASES, *SHARDED])
    parser.add_argument("--sharded", action="store_true", help="models that processes share out")
    parser.add_argument("--heap", action="store_true", help="with the C library's own way of keeping freed memory")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        run_case(given.case, Path(given.place), given.dry)
        return
    print(f"{'run':<26}{'said, GB':>10}{'taken, GB':>11}{'said / taken':>14}", flush=True)
    for name in given.only or (SHARDED if given.sharded else CASES):
        compare(name, given.heap)


if __name__ == "__main__":
    main()
