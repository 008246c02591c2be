"""Every algorithm on one process and on two, under each strategy: how far losses and weights are apart.

    python benchmarks/strategies.py             # all algorithms, some minutes
    python benchmarks/strategies.py dpo ppo     # some of them

Each run makes eight steps on a tiny model in float32, with micro-batches so small that the processes have different
numbers of them. Prints the largest relative difference of a loss, and the largest difference of a weight. An online
algorithm writes its own answers; a run whose answers differ is marked, because then there is nothing to compare.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from safetensors.torch import load_file

from zoo.cli import main as cli
from zoo.contract import registry
from zoo.libraries.reliance import require
from zoo.runs import Run
from zoo.testing.tiny import tiny_rows, write_folder

STRATEGIES = ("ddp", "fsdp")
STEPS = 8
OPTIONS = {
    "precision": "32-true", "eval_fraction": 0.0, "schedule": "constant", "warmup": 0.0, "batch_size": 4, "lr": 1e-3,
    # Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
    "optimizer": "adamw(eps=1e-5)", "epochs": 4, "max_steps": STEPS, "score": "none", "accelerator": "cpu",
    "micro_tokens": 60,
}  # fmt: skip
ONLINE = {"reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "max_new_tokens": 6}


def run(algo: str, folder: Path, name: str, processes: int = 1, **more: object) -> Run:
    """A run of the algorithm in its own folder, with a cache of its own."""
    cls = registry.load_algorithm(algo)[1]
    rows = folder / f"{algo}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(cls.kinds()[0], 10)), encoding="utf-8")
    options = {**OPTIONS, **(ONLINE if cls.online() else {}), "model": folder / "tiny", "data": rows, **more}
    options |= {"out": folder / name, "name": algo, "devices": processes}
    flags = [part for option, value in options.items() for part in (f"--{option.replace('_', '-')}", str(value))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = folder / f"{name}-{algo}.log"
    children = [fork(["train", "--algo", algo, *flags], rank, processes, port, log) for rank in range(processes)]
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(log.read_text(encoding="utf-8"))
    return Run(folder / name / algo)


def fork(typed: list[str], rank: int, processes: int, port: str, log: Path) -> int:
    """`zoo …` in a fork, which has imported everything, as one of the processes that torchrun starts."""
    if child := os.fork():
        return child
    status = 1
    try:
        if processes > 1:
            os.environ |= {"TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
            os.environ |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ["ZOO_CACHE"] = str(log.with_suffix(".cache"))
        with log.open("a", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.argv = ["zoo", *typed]
        cli.main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def losses(of: Run) -> list[float]:
    return [row["loss"] for row in of.metrics if "loss" in row]


def answers(of: Run) -> list[object]:
    """The answers of the rollouts, as far as they are kept."""
    file = of.path / "samples.jsonl"
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.is_file() else []
    return [row.get("answer") for row in rows]


def gaps(one: Run, two: Run) -> str:
    """`3e-07, 6e-08`: of losses, relatively, and of weights."""
    pairs = zip(losses(one), losses(two), strict=True)
    loss = max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)
    first, second = (load_file(of.model_path / "model.safetensors") for of in (one, two))
    weights = max(float((first[name] - second[name]).abs().max()) for name in first)
    return f"{loss:.0e}, {weights:.0e}{'' if answers(one) == answers(two) else ' (other answers)'}"


def main() -> None:
    names = sys.argv[1:] or [entry.name for entry in registry.algorithms() if entry.name != "default"]
    print(f"| algorithm | {' | '.join(STRATEGIES)} |\n|---|{'---|' * len(STRATEGIES)}", flush=True)
    torch.set_num_threads(1)
    for library in ("torch", "transformers", "lightning"):
        require(library)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder / "tiny")
        for name in names:
            one = run(name, folder, "one")
            found = [gaps(one, run(name, folder, of, 2, strategy=of)) for of in STRATEGIES]
            print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
