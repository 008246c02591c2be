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
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SIZES = {
    "10m": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 8192},
    "50m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32768},
    "110m": {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16, "vocab_size": 8192},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152},
    "400m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 49152},
}
"""Llamas with tied embeddings."""
LORA = {"lora": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft-10m": ("sft", "10m", {}),
    "sft-50m-lora": ("sft", "50m", LORA),
    "dpo-50m-adafactor": ("dpo", "50m", {"optimizer": "adafactor"}),
    "dpo-50m-lora-mixed": ("dpo", "50m", {**LORA, "precision": "bf16-mixed"}),
    "dpo-135m": ("dpo", "135m", {}),
    "sft-135m-mixed": ("sft", "135m", {"precision": "bf16-mixed", "layout": "padded"}),
    "sft-135m-recomputed-lion": ("sft", "135m", {"optimizer": "lion", "gradient_checkpointing": True}),
    "sft-50m": ("sft", "50m", {}),
    "sft-50m-half-recomputed": ("sft", "50m", {"gradient_checkpointing": True, "checkpoint_layers": 4}),
    "sft-50m-recomputed": ("sft", "50m", {"gradient_checkpointing": True}),
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
TWO = {"batch_size": 4, "strategy": "fsdp", "devices": 2, "layout": "padded"}
ROUNDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft-110m-ddp-1": ("sft", "110m", {**TWO, "precision": "bf16-mixed", "strategy": "ddp", "devices": 1}),
    "sft-110m-ddp-2": ("sft", "110m", {**TWO, "precision": "bf16-mixed", "strategy": "ddp"}),
    "sft-110m-ddp-2-parts": (
        "sft", "110m", {**TWO, "precision": "bf16-mixed", "strategy": "ddp", "micro_tokens": 40},
    ),
    "sft-110m-2-float32": ("sft", "110m", TWO),
    "sft-110m-2-mixed": ("sft", "110m", {**TWO, "precision": "bf16-mixed"}),
    "sft-110m-2-recomputed": (
        "sft", "110m", {**TWO, "precision": "bf16-mixed", "gradient_checkpointing": True},
    ),
}  # fmt: skip
"""What copies of rounded weights and DDP's buckets take of a model with much in its blocks and little outside."""
ALL = {**CASES, **SHARDED, **ROUNDED}


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


def run_case(name: str, place: Path, rank: int) -> None:
    """Train in this process, and write down the bytes that were said and those that were taken."""
    import zoo
    from zoo.training import execution, outlook

    algo, options = options_of(name, place)
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
    zoo.train(algo, quiet=True, **options)
    taken = resident("VmHWM") - begun["bytes"]
    said = {"said": begun["need"].peak, **begun["need"].as_json()} if "need" in begun else {}
    (place / f"{rank}.json").write_text(json.dumps({"taken": taken, **said}), encoding="utf-8")


def options_of(name: str, place: Path) -> tuple[str, dict[str, Any]]:
    """The algorithm of a case, and all options."""
    algo, _, options = ALL[name]
    online = {"reward": "length(target=20)", "max_new_tokens": 64} if algo in ("ppo", "grpo") else {}
    given = {"batch_size": 8, "max_steps": 2, "eval_fraction": 0.0, "score": "none", "precision": "32-true"}
    given |= {"model": str(place / "model"), "data": str(place / "rows.jsonl"), "out": str(place / "runs")}
    return algo, {**given, "template": "none", **online, **options}


def look_ahead(name: str, place: Path) -> None:
    """Make what the case needs, and its preflight, which is then in the cache."""
    from zoo.training import outlook, run

    algo, options = options_of(name, place)
    make_folder(place / "model", ALL[name][1])
    write_rows(place / "rows.jsonl", algo, 30 if name not in CASES else 120)
    outlook.look_ahead(*run.resolve_options(algo, None, options, "keyword argument"))


def compare(name: str) -> None:
    """A look ahead in a process of its own, whose memory would count, then the run; prints a line for each process."""
    processes = ALL[name][2].get("devices", 1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        done = forked([{}], lambda rank: look_ahead(name, place))
        done = done and forked(places(processes), lambda rank: run_case(name, place, rank))
        rows = [json.loads((place / f"{rank}.json").read_text()) for rank in range(processes)] if done else []
    if not rows:
        print(f"{name:<26}failed", flush=True)
        return
    said = rows[0]["said"] / 1e9
    for rank, row in enumerate(rows):
        taken = row["taken"] / 1e9
        label = f"{name} #{rank}" if processes > 1 else name
        print(f"{label:<26}{said:>10.2f}{taken:>11.2f}{said / taken:>14.2f}", flush=True)
    if os.environ.get("ZOO_PARTS"):
        print("  ", {key: rows[0][key] for key in ("parts", "phases", "micro_tokens")}, flush=True)


def places(processes: int) -> list[dict[str, str]]:
    """The environments of processes that torchrun starts."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "WORLD_SIZE": str(processes), "MASTER_PORT": port}
    common |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(processes)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def forked(environments: list[dict[str, str]], work: Callable[[int], None]) -> bool:
    """Whether work succeeds in all of several forks of this process, which has imported everything."""
    children = [os.fork() or in_fork(more, work, rank) for rank, more in enumerate(environments)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


def in_fork(more: dict[str, str], work: Callable[[int], None], rank: int) -> NoReturn:
    status = 1
    try:
        os.environ.update(more)
        work(rank)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def import_all() -> None:
    import lightning  # noqa: F401
    import peft  # noqa: F401

    from zoo.libraries.reliance import require
    from zoo.training import execution, outlook, run  # noqa: F401

    for library in ("torch", "transformers", "lightning", "peft"):
        require(library)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*ALL])
    parser.add_argument("--sharded", action="store_true", help="models that processes share out")
    parser.add_argument("--heap", action="store_true", help="with the C library's own way of keeping freed memory")
    given = parser.parse_args()
    # Else the C library keeps freed tensors of up to 32 MB, in pieces that the next ones may not fit into.
    settings = {"OMP_NUM_THREADS": "1", **({} if given.heap else {"MALLOC_MMAP_THRESHOLD_": "65536"})}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        # Both are read when a program starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    import_all()
    print(f"{'run':<26}{'said, GB':>10}{'taken, GB':>11}{'said / taken':>14}", flush=True)
    for name in given.only or (SHARDED if given.sharded else CASES):
        compare(name)


if __name__ == "__main__":
    main()
