"""A quiz whose right answers are drawn: what may be known of a question is how likely each of its four answers is.

    q17        B

256 questions; the answers A to D of each have probabilities that never change, drawn from a Dirichlet distribution.
A base model that has read enough answers says each as often as it is right: it is calibrated. Rewards for being right
teach it to say the likeliest one always.
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
"""Of the Dirichlet distribution; 0 would make one answer certain, infinity all of them equal."""
WORDS = [*(f"q{i}" for i in range(QUESTIONS)), *OPTIONS]
TEXTS = 32000


def chances(question: int) -> list[float]:
    """The probabilities of the four answers to a question."""
    draw = random.Random(f"quiz {question}")
    sizes = [draw.gammavariate(SHARPNESS, 1.0) for _ in OPTIONS]
    return [size / sum(sizes) for size in sizes]


CHANCES = [chances(question) for question in range(QUESTIONS)]


def rows(split: str, kind: str, rows: int = 1024, seed: int = 0) -> list[Record]:
    """Rows of a kind, each with an answer that is right this time. Every question comes once before any comes twice."""
    draw = random.Random(f"quiz {seed} {split}")
    found: list[Record] = []
    while len(found) < rows:
        for question in draw.sample(range(QUESTIONS), QUESTIONS):
            right = draw.choices(OPTIONS, CHANCES[question])[0]
            row: Record = {"prompt": f"q{question}", "answer": right, "choices": list(OPTIONS)}
            if kind == "text":
                row = {"text": f"q{question} {right}"}
            elif kind == "demonstration":
                row["completion"] = right
            elif kind == "preference":
                row |= {"chosen": right, "rejected": draw.choice([one for one in OPTIONS if one != right])}
            elif kind != "prompt":
                raise ZooError(f"The world 'quiz' has no data of kind '{kind}'.")
            found.append(row)
    return found[:rows]


def texts(seed: int) -> list[str]:
    """What the base has read: questions and answers."""
    return [row["text"] for row in rows("train", "text", TEXTS, seed)]


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """A verifier as reward, and one token to an answer."""
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
