"""The source `sums`: sums with a right and a wrong answer each; the reward `sums`, which checks an answer; the
environment `abacus`; and the optimizer `signs` with the schedule `stairs`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.api import Environment, NoSuchSplit, Record, Turn, hookimpl
from zoo_sums.signs import signs, stairs

SIZES = {"train": (120, 0), "heldout": (24, 1)}
"""Number of sums and seed of each split."""


def rows(split: str, kind: str) -> list[Record]:
    """Feedback, or prompts alone with the column `sum`, which the reward reads."""
    if split not in SIZES:
        raise NoSuchSplit(f"sums has no split '{split}'.", f"There are: {', '.join(SIZES)}.")
    count, seed = SIZES[split]
    source = random.Random(seed)
    found: list[Record] = []
    for _ in range(count):
        a, b = source.randint(1, 49), source.randint(1, 49)
        row: Record = {"prompt": f"What is {a} + {b}?", "sum": a + b}
        if kind == "prompt":
            found.append(row)
            continue
        wrong = a + b + source.choice((-10, -1, 1, 10))
        found += [{**row, "completion": f"{n}", "label": n == a + b} for n in (a + b, wrong)]
    return found


def right(completions: Sequence[str], records: Sequence[Record]) -> list[float | None]:
    """1 where the last number of the answer is the sum, else 0; None where the record has no sum."""
    scores: list[float | None] = []
    for text, record in zip(completions, records, strict=True):
        numbers = re.findall(r"-?\d+", text)
        scores.append(float(numbers[-1:] == [str(record["sum"])]) if "sum" in record else None)
    return scores


class Abacus(Environment):
    """Adds two numbers, as often as it is asked to."""

    data = "sums"

    def __init__(self, most: int = 3):
        self.most, self.added = most, 0

    def add(self, a: int, b: int) -> int:
        """The sum of two numbers."""
        self.added += 1
        return a + b

    tools = (add,)

    def begin(self, record: Mapping[str, Any], seed: int) -> None:
        self.record = dict(record)

    def step(self, message: Mapping[str, Any]) -> Turn:
        return Turn(done=True, reward=0.0) if self.added == self.most else super().step(message)

    def score(self, message: Mapping[str, Any]) -> float | None:
        return right([message["content"]], [self.record])[0]


@hookimpl
def environments() -> dict[str, Any]:
    return {"abacus": Abacus}


@hookimpl
def sources() -> dict[str, Any]:
    return {"sums": rows}


@hookimpl
def rewards() -> dict[str, Any]:
    return {"sums": right}


@hookimpl
def optimizers() -> dict[str, Any]:
    return {"signs": signs}


@hookimpl
def schedules() -> dict[str, Any]:
    return {"stairs": stairs}
