"""Chains of five steps of arithmetic modulo 11, with the steps written down (some of them wrong) or left out.

    7 +3 *2 +9 +4 *3        +3 10        the prompt: a start and five operations; the answer: an operation
                            *2 9         and its result a line, or the last result alone, which is too much
                            …            for the network to find in one go
                            so 2

The solver is scripted: each step is too large by one with probability `slips`, and later steps continue from the wrong
value, so the correctness of every step is known (process supervision). Slips go in one direction only, because a
model's errors have a pattern too; symmetric slips would cancel in the majority of solutions. Labels of steps can be
true, or those of Math-Shepherd (can the solver still reach the right answer from here?), or those of the outcome.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError

Record = dict[str, Any]
MODULUS = 11
LENGTH = 5
OPERATIONS = [*(f"+{k}" for k in range(1, 10)), "*2", "*3"]
WORDS = [*map(str, range(MODULUS)), *OPERATIONS, "so", "\n"]
TEXTS = 8000
THINKING = 0.3
"""Share of the base's texts with the steps written down."""
SLIPS = 0.2
Labels = Literal["true", "completions", "outcome"]


def after(value: int, operation: str) -> int:
    """The value after an operation."""
    operand = int(operation[1:])
    return (value * operand if operation[0] == "*" else value + operand) % MODULUS


class Chain:
    """A start and its operations, with solutions and labels for them."""

    def __init__(self, draw: random.Random):
        self.start, self.operations = draw.randrange(MODULUS), draw.choices(OPERATIONS, k=LENGTH)

    @property
    def prompt(self) -> str:
        return " ".join([str(self.start), *self.operations])

    @property
    def held_out(self) -> bool:
        """Whether the chain belongs to the held-out split: one in five, by a hash of its text."""
        return random.Random(self.prompt).random() < 0.2

    @property
    def result(self) -> int:
        return self.solve(random.Random(0), slips=0.0)[-1]

    def solve(self, draw: random.Random, slips: float, begun: tuple[int, ...] = ()) -> list[int]:
        """The solver's values after each operation; begun: the first values, if it has them already."""
        values = list(begun)
        for operation in self.operations[len(begun) :]:
            value = after(values[-1] if values else self.start, operation)
            values.append((value + (draw.random() < slips)) % MODULUS)
        return values

    def steps(self, values: list[int]) -> list[str]:
        """A solution as its lines."""
        return [f"{operation} {value}" for operation, value in zip(self.operations, values, strict=True)]

    def labels(self, draw: random.Random, values: list[int], by: Labels, slips: float, tries: int) -> list[int]:
        """A label for each step: 1 right, −1 wrong, 0 unknown.

        true: no slip up to here; completions: one of `tries` solutions that continue from here is right (hard
        estimation of Math-Shepherd); outcome: only the last step is labelled, by the answer.
        """
        right = self.solve(draw, 0.0)
        if by == "true":
            fine = [value == wanted for value, wanted in zip(values, right, strict=True)]
            return [1 if all(fine[: k + 1]) else -1 for k in range(LENGTH)]
        if by == "outcome":
            return [0] * (LENGTH - 1) + [1 if values[-1] == right[-1] else -1]
        reached = [
            any(self.solve(draw, slips, tuple(values[: k + 1]))[-1] == right[-1] for _ in range(tries))
            for k in range(LENGTH)
        ]
        return [1 if reachable else -1 for reachable in reached]


def chains(draw: random.Random, split: str, count: int) -> list[Chain]:
    """`count` chains of a split."""
    selected: list[Chain] = []
    while len(selected) < count:
        chain = Chain(draw)
        if chain.held_out == (split != "train"):
            selected.append(chain)
    return selected


def rows(
    split: str, kind: str, rows: int = 1024, seed: int = 0, slips: float = SLIPS, thinking: float = 1.0,
    labels: Labels = "true", tries: int = 4,
) -> list[Record]:  # fmt: skip
    """Rows of a kind. Raises ZooError for an unknown kind, or for a share outside 0 to 1.

    slips: probability of an error in a step; thinking: share of demonstrations with their steps written down; labels,
    tries: how `Chain.labels` labels the steps of `stepwise` rows.
    """
    for name, share in (("slips", slips), ("thinking", thinking)):
        if not 0 <= share <= 1:
            raise ZooError(f"{name} is {share}, but a share is between 0 and 1.")
    draw, trial = random.Random(f"chains {seed} {split}"), random.Random(f"tries {seed} {split}")
    records = []
    for chain in chains(draw, split, rows):
        row: Record = {"prompt": chain.prompt, "answer": str(chain.result)}
        values = chain.solve(draw, slips)
        if kind == "stepwise":
            row |= {"steps": chain.steps(values), "labels": chain.labels(trial, values, labels, slips, tries)}
        elif kind in ("demonstration", "text"):
            row["completion"] = written(chain, values, draw.random() < thinking)
        elif kind != "prompt":
            raise ZooError(f"The world 'chains' has no data of kind '{kind}'.")
        records.append({"text": f"{row['prompt']} {row['completion']}"} if kind == "text" else row)
    return records


def written(chain: Chain, values: list[int], thinking: bool) -> str:
    """A solution as an answer, with or without its steps; without steps the result is right."""
    if thinking:
        return "\n".join([*chain.steps(values), f"so {values[-1]}"])
    return f"so {chain.result}"


def texts(seed: int) -> list[str]:
    """The base's texts: three in ten solutions have their steps, each of which slips with probability 1/20."""
    return [row["text"] for row in rows("train", "text", TEXTS, seed, slips=0.05, thinking=THINKING)]


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """A verifier that reads the last number of an answer."""
    if algorithm.online():
        return {
            "reward": "numeric", "batch_size": 512, "answers_per_prompt": 16, "epochs": 1000, "max_steps": 60,
            "max_new_tokens": 24,
        }  # fmt: skip
    if algorithm.head == "scalar":
        return {"batch_size": 64, "epochs": 1000, "max_steps": 500, "score": "chain_choice"}
    return {"batch_size": 64, "epochs": 1000, "max_steps": 300}


WORLD = World(tuple(WORDS), rows, texts, training={"steps": 1200, "batch": 64, "lr": 3e-3}, defaults=defaults)
