"""Every algorithm on one process and on several, under each strategy: how far losses and weights are apart.

    python benchmarks/strategies.py             # all algorithms, some minutes
    python benchmarks/strategies.py dpo ppo     # some of them

Each run makes eight steps on a tiny model in float32, with micro-batches so small that the processes have different
numbers of them. Prints the largest relative difference of a loss, and the largest difference of a weight. An online
algorithm learns from the answers that the run on one process has written. `zoo check` compares shorter runs. ddp, fsdp
and tensor have two processes; tensor and fsdp have four, in tensor groups of two.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo.contract import registry
from zoo.testing.processes import Made, Order, make
from zoo.testing.tiny import tiny_rows, write_folder

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp", "devices": 2},
    "fsdp": {"strategy": "fsdp", "devices": 2},
    "tensor": {"tensor_parallel": 2, "devices": 2},
    "tensor and fsdp": {"tensor_parallel": 2, "strategy": "fsdp", "devices": 4},
}
"""Options by the name of a column."""
STEPS = 8


def compared(algo: str, folder: Path) -> list[str]:
    """How far the runs of an algorithm under each strategy are from the run on one process."""
    rows, teacher = folder / f"{algo}.jsonl", str(folder / "teacher")
    kind = registry.load_algorithm(algo)[1].kinds()[0]
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(kind, 10)), encoding="utf-8")
    options = {"model": str(folder / "tiny"), "data": str(rows), "max_steps": STEPS}
    own: dict[str, dict[str, Any]] = {
        "gkd": {"teacher": teacher},
        "opd": {"teacher": teacher},
        "spin": {"minibatches": 2},
    }
    options |= own.get(algo, {})
    one = make(Order(algo, options, folder, f"{algo}-one"))
    orders = [
        Order(algo, {**options, **more}, folder, f"{algo}-{number}", more["devices"], f"{algo}-one")
        for number, more in enumerate(STRATEGIES.values())
    ]
    return [gaps(one, make(order)) for order in orders]


def gaps(one: Made, two: Made) -> str:
    """`3e-07, 6e-08`: of losses, relatively, and of weights."""
    pairs = zip(one.losses, two.losses, strict=True)
    loss = max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)
    first, second = one.model, two.model
    weights = max(float((first[name] - second[name]).abs().max()) for name in first)
    return f"{loss:.0e}, {weights:.0e}"


def main() -> None:
    names = sys.argv[1:] or [entry.name for entry in registry.algorithms() if entry.name != "default"]
    print(f"| algorithm | {' | '.join(STRATEGIES)} |\n|---|{'---|' * len(STRATEGIES)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        write_folder(Path(place) / "tiny")
        write_folder(Path(place) / "teacher", seed=1)
        for name in names:
            print(f"| {name} | {' | '.join(compared(name, Path(place)))} |", flush=True)


if __name__ == "__main__":
    main()
