"""CPU seconds that `zoo runs` takes over a folder with a thousand runs, and over one run of a hundred thousand steps.

    python benchmarks/many_runs.py

The runs are made without training: their files have the form and the size of real ones. Each command is run three
times; the least counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.options.config import TrainConfig
from zoo.runs import Run, create_run

ALGOS = ("sft", "dpo", "grpo", "kto", "ppo")
STATES = ("finished", "finished", "finished", "stopped", "failed", "unfinished")
TIMES = 3
VALIDATIONS = 100


def make_runs(out: Path, count: int) -> None:
    """Short runs of several algorithms and states."""
    for number in range(count):
        algo, state = ALGOS[number % len(ALGOS)], STATES[number % len(STATES)]
        run = _create(out, f"{algo}-{number}", algo)
        write_rows(run, 20)
        if state != "unfinished":
            run.write_json("summary.json", summary(algo, state, 20))


def make_long_run(out: Path, steps: int, name: str = "long") -> Run:
    """A finished run with this many logged steps."""
    run = _create(out, name, "grpo")
    write_rows(run, steps)
    run.write_json("summary.json", summary("grpo", "finished", steps))
    return run


def _create(out: Path, name: str, algo: str) -> Run:
    config = {"algo": algo, **asdict(TrainConfig()), "model": "models/tiny", "data": "data/rows.jsonl"}
    origins = dict.fromkeys(config, "default")
    return create_run(str(out), name, algo, config, f"zoo train --algo {algo}", origins=origins)


def summary(algo: str, state: str, steps: int) -> dict[str, Any]:
    before = {"val/loss": 0.693, "val/reward": 0.0, "instructions": 0.283}
    after = {"val/loss": 0.412, "val/reward": 0.7, "instructions": 0.392}
    facts = {"status": state, "algo": algo, "model": "models/tiny", "data": "data/rows.jsonl", "steps": steps}
    return {**facts, "before": before, "after": after, "scores": {"before": {}, "after": {}}}


def write_rows(run: Run, steps: int) -> None:
    """metrics.jsonl and timing.jsonl with one line for each step, and samples.jsonl of its rollouts."""
    source = random.Random(0)
    every = max(1, steps // VALIDATIONS)
    with (
        (run.path / "metrics.jsonl").open("w", encoding="utf-8") as metrics,
        (run.path / "timing.jsonl").open("w", encoding="utf-8") as timing,
        (run.path / "samples.jsonl").open("w", encoding="utf-8") as samples,
    ):
        for step in range(1, steps + 1):
            metrics.write(json.dumps(_metrics(step, steps, source)) + "\n")
            times = {"step": step, "memory_gb": 0.46, "seconds/training": 0.007 + 0.001 * source.random()}
            timing.write(json.dumps({**times, "speed/training": 4000 + source.random()}) + "\n")
            if step % every == 0 or step == steps:
                loss = 0.4 + 0.3 * math.exp(-5 * step / steps)
                metrics.write(json.dumps({"step": step, "val/loss": loss, "val/reward": 0.7 - loss}) + "\n")
            if step % 4 == 1:
                sample = {"eval": "rollout", "when": f"step {step}", "prompt": "one two", "answer": "three four five"}
                samples.write(json.dumps({**sample, "score": source.random()}) + "\n")


def _metrics(step: int, steps: int, source: random.Random) -> dict[str, float]:
    shared = math.exp(-5 * step / steps)
    row = {"step": step, "epoch": step / 100, "loss": 0.4 + 0.3 * shared + 0.05 * source.gauss(0, 1)}
    row |= {"entropy": 1.0 + shared, "ratio_max": 1.2 + 0.1 * source.random(), "clip_share": 0.1 * source.random()}
    row |= {"kl": 2 * (1 - shared), "grad_norm": source.random(), "lr": 1e-5, "num_tokens": 33.0 * step}
    if step % 4 == 1:
        row |= {"rollout/reward": 0.7 - shared + 0.1 * source.gauss(0, 1), "rollout/length": 20 + source.random()}
        row |= {"rollout/reward_std": 0.5, "rollout/cut": 0.0, "rollout/flat_groups": 0.1}
    return row


def seconds(arguments: list[str], folder: Path) -> float:
    """CPU seconds of a command: the least of several times."""
    measured = []
    for _ in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = [sys.executable, "-c", "from zoo.cli.main import main; main()", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        subprocess.run(start, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        measured.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="make the runs in this folder, and leave them there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = given.keep or Path(place)
        if not (folder / "runs").exists():
            make_runs(folder / "runs", given.runs)
            for name in ("long", "longer"):
                make_long_run(folder / "others", given.steps, name)
        print("CPU s   command")
        for command in COMMANDS:
            print(f"{seconds(command.split(), folder):5.2f}   zoo {command}", flush=True)


COMMANDS = (
    "runs",
    "runs --json",
    "runs others/long",
    "runs others/long --follow",
    "compare others/long others/longer --out compared",
)


if __name__ == "__main__":
    main()
