"""Compares verdicts of the reward `ifeval` with those that another program gave the same answers.

    git clone https://github.com/shisa-ai/M-IFEval
    python benchmarks/ifeval.py M-IFEval gpt-4o-2024-08-06 Qwen__Qwen2.5-0.5B-Instruct-GPTQ-Int4

M-IFEval has the prompts of google/IFEval, answers of many models, and for each instruction the verdict of its own copy
of the benchmark's program.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from zoo.rewards.ifeval import followed, ready
from zoo.rewards.missing import Missing


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main(folder: Path, models: list[str]) -> None:
    ready()
    prompts = {row["prompt"]: row for row in rows_of(folder / "data" / "en_input_data.jsonl")}
    for model in models:
        place = folder / "evaluations" / f"en_input_response_data_{model}"
        counts: Counter[str] = Counter()
        different: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for how in ("strict", "loose"):
            for theirs in rows_of(place / f"eval_results_{how}.jsonl"):
                row = prompts[theirs["prompt"]]
                names = [name.removeprefix("en:") for name in row["instruction_id_list"]]
                ours = followed(theirs["response"], {**row, "instruction_id_list": names})
                if isinstance(ours, Missing):
                    left_out[str(ours)] += 1
                    continue
                counts[how] += all(ours[how])
                counts[f"{how}, theirs"] += theirs["follow_all_instructions"]
                pairs = list(zip(names, ours[how], theirs["follow_instruction_list"], strict=True))
                counts["verdicts"] += len(pairs)
                different.update(name for name, one, other in pairs if one != other)
        print(f"{model}: {counts['verdicts'] - different.total()} of {counts['verdicts']} verdicts are the same")
        print("  prompts followed: " + ", ".join(f"{how} {counts[how]}" for how in counts if how != "verdicts"))
        for name, count in different.items():
            print(f"  {name}: {count} differ")
        print(f"  without a verdict: {dict(left_out)}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
