"""What `zoo train --algo NAME` costs on the default model: its memory, the time of a step and that of the whole run.

    python benchmarks/costs.py               all algorithms, a process each; an hour and a half on one core
    python benchmarks/costs.py dpo grpo      some of them

Each makes a few steps with its defaults on the starter set, with one thread. `lm`, which reads plain text, gets the
good answers of that set, and `--max-length 512`. Beside the steps there are loading, scoring by the reference, and what
an algorithm generates beforehand. The whole run is that and the time of all steps that the defaults ask for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from zoo.bundled.starter import rows
from zoo.contract import registry

STEPS = 8
TEACHERS = dict.fromkeys(("gkd", "opd"), ["--teacher", "smollm2-135m"])
"""A teacher of the size of the student: what a larger one costs more is its own."""
TEXT = ["--max-length", "512", "--batch-size", "8"]


def main() -> None:
    names = sys.argv[1:] or [entry.name for entry in registry.algorithms() if entry.name != "default"]
    print("| algorithm | memory, GB | beside the steps, s | a step's rollout, s | a step, s | steps | whole run, min |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(row(name, Path(folder)), flush=True)


def row(algo: str, folder: Path) -> str:
    """A line of the table."""
    options = ["--algo", algo, *of_text(algo, folder), *TEACHERS.get(algo, []), "--out", str(folder / algo)]
    steps = json.loads(zoo([*options, "--dry-run", "--json"]))["found"]["steps"]
    begun = time.perf_counter()
    zoo([*options, "--max-steps", str(STEPS), "--eval-fraction", "0", "--score", "none", "--save-every", "0"])
    taken = time.perf_counter() - begun
    lines = read_lines(next((folder / algo).glob("*/timing.jsonl")))
    rollout, step = mean(lines, "seconds/rollout"), mean(lines, "seconds/training")
    beside = taken - STEPS * (rollout + step)
    whole = (beside + steps * (rollout + step)) / 60
    memory = max(line["memory_gb"] for line in lines)
    written = f"{rollout:.1f}" if rollout else "–"
    return f"| `{algo}` | {memory:.1f} | {beside:.0f} | {written} | {step:.1f} | {steps} | {whole:.0f} |"


def of_text(algo: str, folder: Path) -> list[str]:
    """Data for the algorithms that the starter set has none for."""
    if "text" not in registry.load_algorithm(algo)[1].kinds():
        return []
    file = folder / "text.jsonl"
    texts = [answer["text"] for row in rows("train") for answer in row["answers"] if all(answer["followed"])]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return ["--data", str(file), *TEXT]


def zoo(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "zoo", "train", *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def mean(lines: list[dict[str, Any]], name: str) -> float:
    """Over all steps: a rollout serves several of some algorithms."""
    return sum(line.get(name, 0.0) for line in lines) / len(lines)


if __name__ == "__main__":
    main()
