"""A GRPO iteration of zoo and of TRL: 8 prompts, 8 answers to each, up to 128 new tokens; generation apart.

Every run is a process of its own; the programs take turns. Same model, prompts, sampling, loss (that of DeepSeekMath:
β = 0.04, k3, clip 0.2), reward, bfloat16 autocast on float32 weights, AdamW, number of threads. TRL generates with
transformers. An iteration is a rollout and one optimizer step on all its answers.

A CPU without AVX-512 computes slowly in bfloat16. There, `--precision float32` compares with TRL at 8 answers at a time
alone: 64 would take about 40 GB.

    python benchmarks/rollout_trl.py                 # makes .venv-trl on first use; about 20 minutes on 2 cores
    python benchmarks/rollout_trl.py --precision float32
    python benchmarks/rollout_trl.py --quick         # two iterations with few tokens, to see that it works
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from compare_trl import Bench, Side, trl_environment
from generation import QUESTIONS

SIDES = (
    Side("TRL", "grpo_trl", {"per_device_train_batch_size": 64}),
    Side("zoo", "grpo_zoo"),
    # What TRL can do about its memory: the same step in eight parts.
    Side(
        "TRL, 8 answers at a time",
        "grpo_trl",
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 8},
        extra=True,
    ),
)
ANSWERS = 8
LARGEST_GAP = 0.1
"""Share by which the programs' answers may differ in tokens; beyond it the iterations are not alike."""


def main() -> None:
    options = read_options()
    python = {"grpo_zoo": sys.executable, "grpo_trl": str(options.trl_python or trl_environment())}
    with tempfile.TemporaryDirectory(prefix="rollout-trl-") as folder:
        bench = Bench(Path(folder), {"zoo": sys.executable, **python}, options)
        model = bench.run("zoo", {"prepare": {}, "model": options.model, "scorer": None})["model"]
        rows = Path(folder) / "prompts.jsonl"
        chats = [{"prompt": [{"role": "user", "content": question}]} for question in QUESTIONS]
        rows.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        job = {
            "model": model, "rows": str(rows), "prompts": len(QUESTIONS), "answers": ANSWERS,
            "max_new_tokens": options.max_new_tokens, "temperature": options.temperature, "top_p": options.top_p,
            "top_k": options.top_k, "iterations": options.iterations, "lr": 1e-6, "precision": options.precision,
        }  # fmt: skip
        found = take_turns(bench, job, options)
    summary = [summarize(name, runs) for name, runs in found.items()]
    print_table(summary)
    if options.json:
        options.json.write_text(json.dumps({"rows": summary, "runs": found}, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; default: the model that zoo trains by default")
    parser.add_argument("--iterations", type=int, default=3, help="iterations a run; the first is not measured")
    parser.add_argument("--rounds", type=int, default=1, help="times that the programs take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of either program")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16", help="default: bf16")
    parser.add_argument("--quick", action="store_true", help="two iterations, 8 new tokens, the main sides only")
    parser.add_argument("--trl-python", type=Path, help="interpreter of an environment that has TRL")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    options = parser.parse_args()
    options.check = False
    if options.quick:
        options.iterations, options.rounds, options.max_new_tokens = 2, 1, 8
    if options.iterations < 2:
        parser.error("--iterations must be at least 2: the first is not measured.")
    return options


def take_turns(bench: Bench, job: dict[str, Any], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The results of each side; extra sides take part in the first round only."""
    found: dict[str, list[dict[str, Any]]] = {}
    small = options.precision == "float32"
    for turn in range(options.rounds):
        for side in SIDES[1:] if small else SIDES:
            if side.extra and not small and (turn or options.quick):
                continue
            result = bench.run(side.program, {**job, "options": side.options})
            found.setdefault(side.name, []).append(result)
            print(f"  {turn + 1}. {side.name}: {result['cpu_per_step']:.1f} CPU s an iteration", flush=True)
    return found


def summarize(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle of the rounds, an iteration each; `training` is all that is not generation."""
    columns: dict[str, list[float]] = {}
    for run in runs:
        tokens = statistics.mean(run["generated_tokens"][1:])
        for clock in ("cpu", "wall"):
            whole, generation = run[f"{clock}_per_step"], run[f"generation_{clock}"]
            columns.setdefault(f"{clock}", []).append(whole)
            columns.setdefault(f"generation_{clock}", []).append(generation)
            columns.setdefault(f"training_{clock}", []).append(whole - generation)
        columns.setdefault("tokens", []).append(tokens)
        columns.setdefault("tokens_per_cpu_second", []).append(tokens / run["generation_cpu"])
        columns.setdefault("peak_bytes", []).append(run["peak_bytes"])
    middle = {column: statistics.median(values) for column, values in columns.items()}
    return {"name": name, **middle, **{key: runs[0][key] for key in ("threads", "attention", "versions")}}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Costs of an iteration, and how often zoo's go into TRL's."""
    first = rows[0]
    attention = ", ".join(f"{row['name']} {row['attention']}" for row in rows)
    print(f"\n  Means of an iteration. {first['threads']} threads. Attention: {attention}.")
    heads = ("tokens", "generation", "training", "together", "wall s", "tokens/CPU s", "peak GB")
    print(f"  {'CPU seconds':26}" + "".join(f"{head:>13}" for head in heads))
    for row in rows:
        print(
            f"  {row['name']:26}{row['tokens']:13.0f}{row['generation_cpu']:13.1f}{row['training_cpu']:13.1f}"
            f"{row['cpu']:13.1f}{row['wall']:13.1f}{row['tokens_per_cpu_second']:13.0f}{row['peak_bytes'] / 1e9:13.2f}"
        )
    ours = next(row for row in rows if row["name"] == "zoo")
    for theirs in (row for row in rows if row is not ours):
        times = {key: theirs[key] / ours[key] for key in ("generation_cpu", "training_cpu", "cpu", "wall")}
        print(
            f"  zoo / {theirs['name']}: generation {times['generation_cpu']:.2f} times as fast by CPU, training "
            f"{times['training_cpu']:.2f}, together {times['cpu']:.2f} ({times['wall']:.2f} by the clock), "
            f"{ours['peak_bytes'] / theirs['peak_bytes']:.2f} of the memory"
        )
        if abs(theirs["tokens"] / ours["tokens"] - 1) > LARGEST_GAP:
            print(f"  NOT ALIKE: {theirs['tokens']:.0f} tokens of {theirs['name']}, {ours['tokens']:.0f} of zoo")


if __name__ == "__main__":
    main()
