"""What one bad batch does to a run, with a guard and without: a world of the laboratory, over several seeds.

    python benchmarks/bad_batch.py             three seeds; a few minutes
    python benchmarks/bad_batch.py --seeds 1   one

Each seed trains on the same sums four times: as they are; with the rows of one step spoilt, which then hold control
characters and a weight that is no longer 1; and the same with `loss_spike(action=skip)` and with
`loss_spike(action=rollback)`. It prints the loss of the bad step and the held-out loss at the end, each as the mean
over the seeds with its standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import zoo
from zoo.api import Algorithm, Loss, default_collate
from zoo.bundled.laboratory.arithmetic import rows as rows_of
from zoo.data.loader import Order

STEPS, BATCH, BAD = 40, 16, 30
"""Steps of a run, rows of a step, and the number of the bad step, from 0. Each row is seen once."""
SPOILT = {"completion": "\x07 + \x1b + \x02 + +", "weight": 10.0}
OPTIONS = {
    "batch_size": BATCH, "epochs": 1, "lr": 0.1, "schedule": "constant", "warmup": 0.0,
    # With so large an ε Adam is nearly plain descent with momentum, which one step can lead astray.
    "optimizer": "adamw(eps=0.1)", "max_grad_norm": 0.0, "save_every": 5, "eval_every": STEPS, "score": "none",
    "precision": "32-true", "layout": "padded", "quiet": True,
}  # fmt: skip
OFF = "loss_spike(action=off), gradient_spike(action=off)"
KINDS = {
    "as they are": (False, OFF),
    "spoilt": (True, OFF),
    "spoilt, skip": (True, "loss_spike(action=skip)"),
    "spoilt, rollback": (True, "loss_spike(action=rollback)"),
}


class Weighted(Algorithm):
    """Raises the log-probabilities of demonstrations by the column `weight`."""

    api_version = 2
    data = "demonstration"

    def collate(self, records):
        batch = default_collate(records)
        return type(batch)(**batch.fields, weight=[float(record["record"].get("weight", 1.0)) for record in records])

    def loss(self, batch, models):
        logps = models.policy.logps(batch.completion)
        return Loss.per_token(-logps.per_token * logps.per_token.new_tensor(batch.weight)[:, None], logps.mask)


def base(folder: Path) -> str:
    """A base of the world, as a folder."""
    model, tokenizer = zoo.load("world:arithmetic(steps=300)")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def spoilt(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows, with those of the bad step spoilt."""
    order = Order(len(rows), seed, True)
    bad = {order.at(n) for n in range(BAD * BATCH, (BAD + 1) * BATCH)}
    return [{**row, **SPOILT} if i in bad else row for i, row in enumerate(rows)]


def ends(seed: int, folder: Path) -> dict[str, tuple[float, float]]:
    """For each of KINDS the loss of the bad step, and the held-out loss at the end."""
    rows = list(rows_of("train", "demonstration", STEPS * BATCH))
    files = {False: write(folder / "rows.jsonl", rows), True: write(folder / "spoilt.jsonl", spoilt(rows, seed))}
    heldout = write(folder / "heldout.jsonl", rows_of("heldout", "demonstration", 128))
    model, found = base(folder / "base"), {}
    for number, (kind, (is_bad, guards)) in enumerate(KINDS.items()):
        run = zoo.train(
            f"{__file__}:Weighted", data=files[is_bad], eval_data=heldout, model=model, seed=seed, guards=guards,
            out=str(folder), name=f"run-{number}", **OPTIONS,
        )  # fmt: skip
        losses = [row["loss"] for row in run.log_history if "loss" in row]
        found[kind] = (losses[BAD], run.summary["after"]["val/loss"])
    return found


def measured(seeds: int) -> list[dict[str, tuple[float, float]]]:
    """What `ends` gives for each seed."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for seed in range(seeds):
            (place := Path(folder, str(seed))).mkdir()
            found.append(ends(seed, place))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    found = measured(parser.parse_args().seeds)
    print(f"{'rows of the bad step':<22}{'its loss':>16}{'held-out loss at the end':>30}")
    for kind in KINDS:
        columns = zip(*(one[kind] for one in found), strict=True)
        cells = [f"{statistics.fmean(column):.3f} ± {statistics.pstdev(column):.3f}" for column in columns]
        print(f"{kind:<22}{cells[0]:>16}{cells[1]:>30}")


if __name__ == "__main__":
    main()
