"""A quiz with random right answers: all that can be known about a question is how likely each of its four answers is.

    q17        B

There are 256 questions; the answers A to D to each have fixed probabilities, drawn from a Dirichlet distribution. A
base model that has read enough answers gives each answer as often as it is right: it is calibrated. Rewards for right
answers teach it to give always the likeliest answer.
"""

from __future__ import annotations

import random
from typing import Any

from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError

Record = dict[str, Any]
QUESTIONS, OPTIONS = 256, "ABCD"
SHARPNESS = 0.8
"""The concentration of the Dirichlet distribution: near 0 one answer is certain, at infinity all are equally likely."""
WORDS = [*(f"q{i}" for i in range(QUESTIONS)), *OPTIONS]
TEXTS = 32000


def chances(question: int) -> list[float]:
    """The probabilities of the four answers to a question."""
    draw = random.Random(f"quiz {question}")
    sizes = [draw.gammavariate(SHARPNESS, 1.0) for _ in OPTIONS]
    return [size / sum(sizes) for size in sizes]


CHANCES = [chances(question) for question in range(QUESTIONS)]


def rows(split: str, kind: str, rows: int = 1024, seed: int = 0) -> list[Record]:
    """Rows of a kind, each with its own random right answer. Every question occurs once before any occurs twice."""
    draw = random.Random(f"quiz {seed} {split}")
    records: list[Record] = []
    while len(records) < rows:
        for question in draw.sample(range(QUESTIONS), QUESTIONS):
            right = draw.choices(OPTIONS, CHANCES[question])[0]
            row: Record = {"prompt": f"q{question}", "answer": right, "choices": list(OPTIONS)}
            if kind == "text":
                row = {"text": f"q{question} {right}"}
            elif kind == "demonstration":
                row["completion"] = right
            elif kind == "preference":
                row |= {"chosen": right, "rejected": draw.choice([option for option in OPTIONS if option != right])}
            elif kind != "prompt":
                raise ZooError(f"The world 'quiz' has no data of kind '{kind}'.")
            records.append(row)
    return records[:rows]


def texts(seed: int) -> list[str]:
    """The base's texts: questions and answers."""
    return [row["text"] for row in rows("train", "text", TEXTS, seed)]


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """A verifier as reward, and one token per answer."""
    if algorithm.online():
        return {
            "reward": "exact",
            "batch_size": 512,
            "epochs": 1000,
            "max_steps": 100,
            "max_new_tokens": 2,
            "answers_per_prompt": 16,
        }
    return {"batch_size": 64, "epochs": 1000, "max_steps": 300}


WORLD = World(tuple(WORDS), rows, texts, training={"steps": 600, "batch": 128, "lr": 3e-3}, defaults=defaults)
