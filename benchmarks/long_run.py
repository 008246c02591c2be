"""A run of a hundred thousand steps: whether its memory stays flat and its steps stay as fast as at the start.

    python benchmarks/long_run.py

It trains a model of one layer on rows of a few tokens, so that a step is hardly more than what zoo adds to it, and
looks at the process from outside every second: resident memory, CPU time, steps done. After the end it prints

* the memory's slope per 1,000 steps with its 95 % interval: a line through the means of 20 equal parts of the run,
  without its first tenth, in which caches fill;
* the time of a step in the second and in the last tenth of the run, from timing.jsonl, and the CPU time per step;
* the CPU time of the commands that then read the run.

`--minutes` ends the run early with SIGTERM; what was measured until then is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from zoo.evals import student
from zoo.runs import Run

PARTS = 20
START = [sys.executable, "-c", "from zoo.cli.main import main; main()"]


class Look(NamedTuple):
    """The process at one moment: steps done, resident kilobytes, CPU seconds since it began."""

    step: int
    kilobytes: int
    cpu: float


def make_folder(folder: Path) -> None:
    """A model of one layer in tiny/, and rows.jsonl."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from zoo.libraries.pretrained import save
    from zoo.testing.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    save(LlamaForCausalLM(config).float().eval(), folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    rows = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(64)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(steps: int) -> list[str]:
    options = f"""train --algo sft --model tiny --data rows.jsonl --name long --max-steps {steps} --epochs {steps}
        --batch-size 1 --lr 1e-3 --schedule constant --precision 32-true --save-every 1000 --eval-every 1000"""
    return [*START, *options.split()]


def train(folder: Path, steps: int, minutes: float) -> tuple[list[Look], float]:
    """Looks at the run while it goes on, and its wall seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began, looks = time.monotonic(), list[Look]()
    with subprocess.Popen(command(steps), cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(1.0)
            if (seen := look(process.pid, folder / "runs" / "long" / "metrics.jsonl")) is not None:
                looks.append(seen)
            if time.monotonic() - began > 60 * minutes:
                process.send_signal(signal.SIGTERM)
                process.wait()
    return looks, time.monotonic() - began


def look(pid: int, metrics: Path) -> Look | None:
    """None before the first step, and for a process that has ended."""
    try:
        with metrics.open("rb") as stream:
            stream.seek(-min(2000, metrics.stat().st_size), os.SEEK_END)
            step = json.loads(stream.read().splitlines()[-2])["step"]
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return Look(step, memory, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def slope(looks: Sequence[Look]) -> tuple[float, float]:
    """Kilobytes per 1,000 steps, and half its 95 % interval by Student's t over the means of equal parts."""
    first, last = looks[0].step, looks[-1].step + 1
    parts: list[list[Look]] = [[] for _ in range(PARTS)]
    for seen in looks:
        parts[(seen.step - first) * PARTS // (last - first)].append(seen)
    points = [(mean(s.step for s in part) / 1000, mean(s.kilobytes for s in part)) for part in parts if part]
    x, y = mean(p[0] for p in points), mean(p[1] for p in points)
    spread = sum((a - x) ** 2 for a, _ in points)
    rate = sum((a - x) * (b - y) for a, b in points) / spread
    left = sum((b - y - rate * (a - x)) ** 2 for a, b in points)
    freedom = len(points) - 2
    return rate, student(freedom) * math.sqrt(left / freedom / spread)


def milliseconds(run: Run, low: float, high: float) -> float:
    """The median of the steps between two shares of the run."""
    times = [row["seconds/training"] * 1e3 for row in run.timings if "seconds/training" in row]
    return median(times[int(low * len(times)) : int(high * len(times))])


def cpu_milliseconds(looks: Sequence[Look], low: float, high: float) -> float:
    """CPU time per step between two shares of the run, everything counted."""
    steps = looks[-1].step
    part = [seen for seen in looks if low * steps <= seen.step <= high * steps]
    return (part[-1].cpu - part[0].cpu) / (part[-1].step - part[0].step) * 1e3


def seconds(arguments: str, folder: Path) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*START, *arguments.split()], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder)
        looks, wall = train(folder, given.steps, given.minutes)
        show(folder, looks, wall)


def show(folder: Path, looks: list[Look], wall: float) -> None:
    run, steps = Run(folder / "runs" / "long"), looks[-1].step
    # After the last step the report reads the whole run, which is not a matter of the steps.
    settled = [seen for seen in looks if steps / 10 < seen.step < steps]
    rate, noise = slope(settled)
    print(f"{steps:,} steps in {wall / 60:.1f} minutes; the run is {run.status}")
    ends = " and ".join(f"{seen.kilobytes / 1e3:.1f} MB" for seen in (settled[0], settled[-1]))
    print(
        f"memory    {ends} after a tenth and before the last step; slope {rate:+.2f} ± {noise:.2f} kB per 1,000 steps"
    )
    for label, of in (("step", lambda low, high: milliseconds(run, low, high)),
                      ("CPU/step", lambda low, high: cpu_milliseconds(looks, low, high))):  # fmt: skip
        start, end = of(0.1, 0.2), of(0.9, 1.0)
        print(f"{label:9} {start:.2f} ms in the second tenth, {end:.2f} ms in the last: {end / start:.2f} times")
    for name in ("metrics.jsonl", "timing.jsonl", "report.html"):
        if (run.path / name).is_file():
            print(f"{name:14} {(run.path / name).stat().st_size / 1e6:.1f} MB")
    for arguments in ("runs", "runs last", "compare long long"):
        print(f"CPU s     {seconds(arguments, folder):.2f} for zoo {arguments}")


if __name__ == "__main__":
    main()
