"""What data of many rows costs: encoding, the seconds before the first step, and memory.

    python benchmarks/data_scale.py                           # 10,000 and 100,000 short pairs
    python benchmarks/data_scale.py --rows 1000000 10000000   # an hour or more, and 20 GB of disk
    python benchmarks/data_scale.py --workers 1

Each size is a file of made-up preference pairs. A run of three steps of `dpo` on a model of two small layers with the
tokenizer of the default model is made twice, with a cache of its own: cold, and warm. Seconds count from the end of the
imports until the first step, without the validation before it: that depends on the held-out rows (a twentieth, at most
2,000 prompts) and stands apart. Memory is anonymous (RssAnon), the most of each phase in the run's own process; that of
data workers stands apart, all of them together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SYLLABLES = "ba ko ti ren sul mar vio den lap quo fir zen tor mil gra pen sha dol wik run".split()
CHILD = """
import json, os, resource, sys, time
import zoo.training.assembly as assembly, zoo.training.fitting as fitting
from zoo.training.step.module import PostTraining

def cpu():
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

def tell(phase):
    print("phase", json.dumps([phase, time.monotonic(), cpu()]), file=sys.stderr, flush=True)

validate = fitting.validate
def validated(*args, **kwargs):
    tell("validation")
    try:
        return validate(*args, **kwargs)
    finally:
        tell("validated")
fitting.validate = validated
load_data, step, first = assembly.load_data, PostTraining.training_step, []
def watched(*args, **kwargs):
    tell("data")
    try:
        return load_data(*args, **kwargs)
    finally:
        tell("model")
def stepped(self, *args, **kwargs):
    result = step(self, *args, **kwargs)
    if not first:
        first.append(tell("training"))
    return result
assembly.load_data, PostTraining.training_step = watched, stepped
import lightning, peft, transformers
tell("start")
import zoo
options = json.loads(sys.argv[1])
zoo.train(algo="dpo", **options)
tell("end")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, help="processes that encode (default: the CPU cores)")
    parser.add_argument("--folder", type=Path, help="where files and cache go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write every number")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = small_model(folder)
        rows = [measured(count, folder, model, given.workers) for count in given.rows]
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def measured(count: int, folder: Path, model: Path, workers: int | None) -> dict[str, float]:
    """Both runs of a size; prints a line of the table."""
    file = pairs(count, folder)
    for before in (folder / "cache" / "data", folder / "runs"):
        shutil.rmtree(before, ignore_errors=True)
    cold, warm = (run(file, folder, model, workers, name) for name in (f"cold-{count}", f"warm-{count}"))
    facts = {
        "rows": count, "rows a CPU second": count / cold["data cpu"], "cold s": cold["first step"],
        "warm s": warm["first step"], "warm data s": warm["data seconds"], "validation s": warm["validation"],
        "encoding MB": cold["data anon"],
        "workers MB": cold["workers anon"], "training MB": cold["training anon"],
        "warm training MB": warm["training anon"],
    }  # fmt: skip
    print("  ".join(f"{name} {value:,.1f}" if value < 100 else f"{name} {value:,.0f}" for name, value in facts.items()))
    return facts


def run(file: Path, folder: Path, model: Path, workers: int | None, name: str) -> dict[str, float]:
    """A run, watched. Raises SystemExit where it fails."""
    options = {
        "data": str(file), "model": str(model), "max_steps": 3, "batch_size": 16, "eval_every": 1000,
        "reference_cache": "off", "score": "none", "data_workers": workers, "name": name,
        "out": str(folder / "runs"), "accelerator": "cpu", "quiet": True,
    }  # fmt: skip
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(options)], stdout=said, stderr=said, env=environment
        )
        times: dict[str, tuple[float, float]] = {}
        most: dict[str, float] = {}
        while process.poll() is None:
            said.seek(0)
            for line in said.read().splitlines():
                if line.startswith("phase "):
                    phase, at, cpu = json.loads(line[6:])
                    times.setdefault(phase, (at, cpu))
            now = list(times)[-1] if times else "imports"
            most[now] = max(most.get(now, 0.0), anonymous(process.pid))
            most["workers"] = max(most.get("workers", 0.0), sum(map(anonymous, children(process.pid))))
            time.sleep(0.05)
        said.seek(0)
        if process.returncode:
            raise SystemExit(said.read()[-3000:])
        for line in said.read().splitlines():
            if line.startswith("phase "):
                phase, at, cpu = json.loads(line[6:])
                times.setdefault(phase, (at, cpu))
    validation = times["validated"][0] - times["validation"][0]
    return {
        "first step": times["training"][0] - times["start"][0] - validation,
        "validation": validation,
        "data seconds": times["model"][0] - times["data"][0], "data cpu": times["model"][1] - times["data"][1],
        "data anon": most.get("data", 0.0), "training anon": most.get("training", 0.0),
        "workers anon": most["workers"],
    }  # fmt: skip


def anonymous(process: int) -> float:
    """The anonymous memory of a process in MB, 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon")), 0.0)


def children(process: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def pairs(count: int, folder: Path) -> Path:
    """A file of so many pairs."""
    file = folder / f"pairs-{count}.jsonl"
    if file.is_file():
        return file
    draw = random.Random(1)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(5000)]
    words += "the a of and to in is it you that he was for on are with as his they be at one have this".split() * 100
    beside = file.with_suffix(".tmp")
    with beside.open("w") as out:
        for number in range(count):
            row = {name: " ".join(draw.choices(words, k=draw.randint(4, 16))) for name in ("chosen", "rejected")}
            row["prompt"] = f"{' '.join(draw.choices(words, k=draw.randint(4, 12)))} {number}?"
            out.write(json.dumps(row) + "\n")
    os.replace(beside, file)
    return file


def small_model(folder: Path) -> Path:
    """A model of two small layers with the tokenizer of the default model."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from zoo.models.default import default_model

    tokenizer = AutoTokenizer.from_pretrained(default_model())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


if __name__ == "__main__":
    main()
