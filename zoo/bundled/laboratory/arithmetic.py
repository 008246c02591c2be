"""Verifiable arithmetic: sums modulo 23, many of which the base model has read with wrong results.

    3 + 22 =        2

There are 529 sums; three quarters are for training, the others are held out. In the base's texts 45 % of the results
are off by one to three, so the base knows the right result but does not say it reliably. Reinforcement learning with a
verifier can correct this, as in DeepSeekMath.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError

Record = dict[str, Any]
MODULUS = 23
WORDS = [*map(str, range(MODULUS)), "+", "="]
TEXTS = 8000
SCORE = "accuracy(data=world:arithmetic, limit=132, max_new_tokens=3)"
"""An evaluation on every held-out sum, once each."""
RUBBISH = " ".join("+ = + + =".split() * 3)
KINDS = ("text", "demonstration", "preference", "feedback", "prompt")
NOISE = 0.45
"""Share of wrong results in the base's texts."""


def sums(split: str) -> list[tuple[int, int]]:
    """The sums of a split."""
    draw = random.Random("sums")
    pairs = [(a, b) for a in range(MODULUS) for b in range(MODULUS)]
    held = set(draw.sample(pairs, len(pairs) // 4))
    return [pair for pair in pairs if (pair in held) == (split != "train")]


def rows(
    split: str, kind: str, rows: int = 512, noise: float = 0.0, spoilt: int = 0, seed: int = 0
) -> Iterator[Record]:
    """Rows of a kind; every sum occurs once before any occurs twice. noise: share of wrong results or swapped labels;
    spoilt: demonstrations that are rubbish, which a run with the same seed reads in a row after three quarters of all.

    Each is drawn when it is read. Raises ZooError for an unknown kind, and for a noise outside 0 to 1.
    """
    if kind not in KINDS:
        raise ZooError(f"The world 'arithmetic' has no data of kind '{kind}'.", f"There are: {', '.join(KINDS)}.")
    if not 0 <= noise <= 1:
        raise ZooError(f"noise is {noise}, but a share is between 0 and 1.")
    draw = random.Random(f"arithmetic {seed} {split}")
    drawn = itertools.islice(_drawn(draw, sums(split), kind, noise), rows)
    if kind != "demonstration" or split != "train":
        return drawn
    from zoo.data.loader import Order

    order = Order(rows, seed, True)
    bad = {order.at(place) for place in range(3 * rows // 4, min(rows, 3 * rows // 4 + spoilt))}
    return ({**row, "completion": RUBBISH} if number in bad else row for number, row in enumerate(drawn))


def _drawn(draw: random.Random, pool: list[tuple[int, int]], kind: str, noise: float) -> Iterator[Record]:
    """An endless stream of rows."""
    while True:
        for a, b in draw.sample(pool, len(pool)):
            yield _row(draw, kind, a, b, noise)


def texts(seed: int) -> list[str]:
    """The base's texts: sums of the training split with their results, 45 % of which are wrong."""
    return [f"{row['prompt']} {row['completion']}" for row in rows("train", "demonstration", TEXTS, NOISE, seed)]


def _row(draw: random.Random, kind: str, a: int, b: int, noise: float) -> Record:
    result, slip = (a + b) % MODULUS, draw.choice([-3, -2, -1, 1, 2, 3])
    right, wrong = str(result), str((result + slip) % MODULUS)
    swapped = draw.random() < noise
    row: Record = {"prompt": f"{a} + {b} =", "answer": right}
    if kind == "text":
        return {"text": f"{row['prompt']} {wrong if swapped else right}"}
    if kind == "demonstration":
        return {**row, "completion": wrong if swapped else right}
    if kind == "preference":
        return {**row, "chosen": wrong if swapped else right, "rejected": right if swapped else wrong}
    if kind == "feedback":
        good = draw.random() < 0.5
        return {**row, "completion": right if good else wrong, "label": good != swapped}
    return row


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """Sixty steps of 512 answers for algorithms that write answers, three hundred for those that learn from rows."""
    if algorithm.head == "scalar":
        return {"batch_size": 64, "epochs": 1000, "max_steps": 300}
    if algorithm.online():
        return {
            "reward": "exact", "score": SCORE, "batch_size": 512, "answers_per_prompt": 16,
            "epochs": 1000, "max_steps": 60, "max_new_tokens": 3,
        }  # fmt: skip
    return {"score": SCORE, "batch_size": 64, "epochs": 1000, "max_steps": 300}


WORLD = World(tuple(WORDS), rows, texts, training={"steps": 1200, "batch": 64, "lr": 3e-3}, defaults=defaults)
