"""zoo and TRL on the same rows: processor time and peak memory of a training step.

Every run is a process of its own; the programs take turns. Same model, rows and their order, batch, bfloat16 autocast
on float32 weights, AdamW, constant learning rate, clipping, no dropout, no gradient checkpointing, number of threads.

    python benchmarks/compare_trl.py                 # everything; makes .venv-trl on first use
    python benchmarks/compare_trl.py --quick         # two steps each, to see that it works
    python benchmarks/compare_trl.py --check         # float32: do both learn the same?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "against_trl"
sys.path.insert(0, str(SCRIPTS))

from rows import SCENARIOS, Scenario, make_rows, write_rows  # noqa: E402

LR, BETA = 1e-5, 0.1
LARGEST_GAP = {"bf16": 0.1, "float32": 1e-3}
"""Losses further apart than this are no rounding. In bf16 Adam's first steps magnify it (see README.md)."""


@dataclass(frozen=True)
class Side:
    """One program with one set of its own options; an `extra` one takes part in the first round only."""

    name: str
    program: str
    options: dict[str, Any] = field(default_factory=dict)
    extra: bool = False


FOUR_PAIRS = {"per_device_train_batch_size": 4}
ONE_PAIR = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
FOUR_TEXTS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
TRL = Side("TRL", "trl", FOUR_PAIRS)
TRL_ONE_PAIR = Side("TRL, pair by pair", "trl", ONE_PAIR, extra=True)
TRL_PRECOMPUTED = Side(
    "TRL, reference precomputed", "trl", {**FOUR_PAIRS, "precompute_ref_log_probs": True}, extra=True
)
ZOO = Side("zoo", "zoo", {"reference_cache": "off", "beta": BETA})
ZOO_CACHED = Side("zoo, reference cached", "zoo", {"reference_cache": "auto", "beta": BETA})
# A packed batch of TRL is one long row; its own rows one by one are its cheapest way without FlashAttention.
TRL_PACKED = Side("TRL, packed", "trl", {"packing": True, "max_length": 512, "rows_together": True})
TRL_ONE_ROW = Side("TRL, packed, row by row", "trl", {"packing": True, "max_length": 512}, extra=True)
TRL_PADDED = Side("TRL, padded", "trl", FOUR_TEXTS, extra=True)
SIDES = {
    "dpo-mixed": (TRL, ZOO, ZOO_CACHED, TRL_ONE_PAIR, TRL_PRECOMPUTED),
    "dpo-long": (TRL, ZOO, ZOO_CACHED, TRL_ONE_PAIR),
    "sft-packing": (TRL_PACKED, Side("zoo", "zoo"), TRL_ONE_ROW, TRL_PADDED),
    "kto-mixed": (Side("TRL", "trl", {"per_device_train_batch_size": 8}), ZOO, ZOO_CACHED),
    # TRL's likelihood term counts the prompt too.
    "orpo-mixed": (TRL, Side("zoo", "zoo", {"odds_ratio_weight": BETA, "nll_over": "all"})),
    "rm-mixed": (TRL, Side("zoo", "zoo", {"normalize": "none"})),
}


def main() -> None:
    options = read_options()
    python = {"zoo": sys.executable, "trl": str(options.trl_python or trl_environment())}
    scenarios = [s for s in SCENARIOS if s.name in (options.scenario or [s.name])]
    with tempfile.TemporaryDirectory(prefix="compare-trl-") as folder:
        bench = Bench(Path(folder), python, options)
        prepared = bench.prepare(scenarios)
        results = {s.name: bench.compare(s, prepared["model"], prepared["orders"][s.name]) for s in scenarios}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; default: the model that zoo trains by default")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps a run; the first is not measured")
    parser.add_argument("--rounds", type=int, default=1, help="times that the programs take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of either program")
    parser.add_argument(
        "--scenario", action="append", choices=[s.name for s in SCENARIOS], help="only this one (may be repeated)"
    )
    parser.add_argument("--quick", action="store_true", help="two steps, one round, the main sides only")
    parser.add_argument("--check", action="store_true", help="float32, one round: compares losses, not costs")
    parser.add_argument("--trl-python", type=Path, help="interpreter of an environment that has TRL")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    options = parser.parse_args()
    if options.quick:
        options.steps = 2
    if options.quick or options.check:
        options.rounds = 1
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first step is not measured.")
    return options


def trl_environment() -> Path:
    """The interpreter of `.venv-trl`, which is made with zoo's own versions of torch and transformers."""
    folder = HERE.parent / ".venv-trl"
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.is_file():
        print(f"Making {folder} (once).", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        (folder / ".gitignore").write_text("*\n")
        same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers")]
        # torch first and alone, so that TRL's requirements cannot choose another build.
        for wanted in (same[:1], [*same, "-r", str(HERE / "requirements-trl.txt")]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        done.touch()
    return python


class Bench:
    """Runs jobs in their own processes and prints what they cost."""

    def __init__(self, folder: Path, python: dict[str, str], options: argparse.Namespace):
        self.folder, self.python, self.options = folder, python, options
        self.precision = "float32" if options.check else "bf16"
        self.scorer = folder / "scorer"
        self.runs = 0

    def prepare(self, scenarios: list[Scenario]) -> dict[str, Any]:
        """The model's folder, and the order of rows in which zoo will take them."""
        steps = self.options.steps
        wanted = {s.name: (s.rows_needed(steps), s.batch_size, _epochs(s, steps), steps) for s in scenarios}
        scorer = str(self.scorer) if any(s.algo == "rm" for s in scenarios) else None
        return self.run("zoo", {"prepare": wanted, "model": self.options.model, "scorer": scorer})

    def compare(self, scenario: Scenario, model: str, order: list[int]) -> list[dict[str, Any]]:
        """All sides of a scenario in turns; prints the table."""
        steps = self.options.steps
        rows = make_rows(scenario, steps)
        files = {name: self.folder / f"{scenario.name}-{name}.jsonl" for name in self.python}
        write_rows(rows, files["zoo"])
        # TRL takes its file from top to bottom.
        write_rows(rows if scenario.same_rows_every_step else [rows[i] for i in order], files["trl"])
        common = {
            "algo": scenario.algo, "model": str(self.scorer) if scenario.algo == "rm" else model,
            "steps": steps, "epochs": _epochs(scenario, steps),
            "batch_size": scenario.batch_size, "lr": LR, "beta": BETA, "cache": str(self.folder / "cache"),
            "precision": self.precision,
        }  # fmt: skip
        print(f"\n{scenario.name}: {scenario.title}; {scenario.batch_size} examples a step, {self.precision}")
        found: dict[str, list[dict[str, Any]]] = {}
        for turn in range(self.options.rounds):
            for side in SIDES[scenario.name]:
                if side.extra and (turn or self.options.quick or self.options.check):
                    continue
                job = {**common, "rows": str(files[side.program]), "options": side.options}
                result = self.run(side.program, job)
                found.setdefault(side.name, []).append(result)
                print(f"  {turn + 1}. {side.name}: {result['cpu_per_step']:.2f} CPU s a step", flush=True)
        summary = [summarize(side, found[side.name]) for side in SIDES[scenario.name] if side.name in found]
        print_table(summary)
        for line in differences(summary, LARGEST_GAP[self.precision]):
            print(f"  NOT ALIKE: {line}")
        return [{**row, "runs": found[row["name"]]} for row in summary]

    def run(self, program: str, job: dict[str, Any]) -> dict[str, Any]:
        """One process; its result, or an end with the last lines of what it said."""
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        place.mkdir()
        job_file, result = place / "job.json", place / "result.json"
        job_file.write_text(json.dumps({**job, "result": str(result), "scratch": str(place / "scratch")}))
        threads = str(self.options.threads)
        scratch = {"HF_DATASETS_CACHE": str(place / "datasets"), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            [self.python[program], str(SCRIPTS / f"run_{program}.py"), str(job_file)],
            env={**os.environ, **scratch, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode or not result.is_file():
            said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            sys.exit(f"{said}\n\nThe {program} run ended with status {done.returncode}; its last words are above.")
        return json.loads(result.read_text())


def _epochs(scenario: Scenario, steps: int) -> int:
    return steps if scenario.same_rows_every_step else 1


def summarize(side: Side, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle of the rounds; losses and tokens are the same in each."""
    middle = {
        name: statistics.median(run[name] for run in runs)
        for name in ("cpu_per_step", "wall_per_step", "peak_bytes", "setup_seconds")
    }
    # A cache that a former round has filled would hide what it costs to fill it.
    middle["setup_seconds"] = runs[0]["setup_seconds"]
    same = {name: runs[0][name] for name in ("losses", "trained_tokens", "read_tokens", "threads", "attention")}
    return {"name": side.name, "program": side.program, **middle, **same}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Costs, losses and ratios."""
    first = rows[0]
    tokens = ", ".join(f"{sum(first[key]) / len(first[key]):.0f} {word}" for key, word in _TOKENS)
    attention = ", ".join(dict.fromkeys(f"{row['program']} {row['attention']}" for row in rows))
    print(f"\n  Tokens a step: {tokens}. {first['threads']} threads. Attention: {attention}.")
    print(f"  {'':28}{'CPU s/step':>11}{'wall s/step':>12}{'peak GB':>9}{'first loss':>12}{'last loss':>11}")
    for row in rows:
        print(
            f"  {row['name']:28}{row['cpu_per_step']:11.2f}{row['wall_per_step']:12.2f}{row['peak_bytes'] / 1e9:9.2f}"
            f"{row['losses'][0]:12.5f}{row['losses'][-1]:11.5f}"
        )
    for ours in (row for row in rows if row["program"] == "zoo"):
        for theirs in (row for row in rows if row["program"] == "trl"):
            cpu, wall = (theirs[key] / ours[key] for key in ("cpu_per_step", "wall_per_step"))
            memory = ours["peak_bytes"] / theirs["peak_bytes"]
            print(
                f"  {ours['name']} / {theirs['name']}: {cpu:.2f} times as fast by CPU, {wall:.2f} by the clock, "
                f"{memory:.2f} of the memory"
            )
    for row in (row for row in rows if "reference " in row["name"]):
        print(f"  {row['name']}: {row['setup_seconds']:.1f} CPU s once, before the first step, not counted above")


_TOKENS = (("trained_tokens", "trained"), ("read_tokens", "read (prompts counted with each answer)"))


def differences(rows: list[dict[str, Any]], largest_gap: float) -> list[str]:
    """What would make the comparison unfair: other tokens, losses or threads."""
    found = []
    first = rows[0]
    for row in rows[1:]:
        for name in ("trained_tokens", "read_tokens", "threads"):
            if row[name] != first[name]:
                found.append(f"{name} of {row['name']} is {row[name]}, of {first['name']} {first[name]}")
        gap = max(abs(a - b) for a, b in zip(row["losses"], first["losses"], strict=True))
        if gap > largest_gap:
            found.append(f"losses of {row['name']} and {first['name']} are up to {gap:.2g} apart")
    return found


if __name__ == "__main__":
    main()
