"""Two skills in one model: answers of the gold world, and saying words backwards, for which there is no reward.

    river                               was calm and the old horse felt bitter      as in `gold`
    backwards river old kind a so       so a kind old river                          right or wrong

The base has both skills. Reinforcement learning on topics alone may cost it the second one, although no reward asks for
that: the alignment tax of InstructGPT (arXiv:2203.02155). Texts of both skills, mixed into the training, prevent it.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from zoo.bundled.laboratory import gold, gold_world
from zoo.bundled.laboratory.gold_rows import rows as gold_rows
from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError

Row = dict[str, Any]
BACKWARDS = "backwards"
WORDS = (*gold.WORDS, BACKWARDS)
SPOKEN = 5
"""The words to say backwards."""
TEXTS = 20_000


def rows(
    split: str, kind: str, rows: int = 4000, seed: int = 0, skill: Literal["both", "topics", "backwards"] = "both"
) -> list[Row]:
    """Rows of prompts and demonstrations, of both skills in turn or of one.

    A prompt has its demonstration, for algorithms that mix texts into the training; a prompt to say words backwards
    also has its right answer, and no reward. Raises ZooError for an unknown kind or split.
    """
    if kind not in ("prompt", "demonstration", "text"):
        raise ZooError(f"world:skills has no data of kind '{kind}'.", "There are: prompt, demonstration, text.")
    topics = list(gold_rows(split, "demonstration", rows=rows, seed=seed))
    draw = random.Random(f"skills {split} {seed}")
    spoken = [backwards(draw) for _ in topics]
    kept = {"both": [row for both_rows in zip(topics, spoken, strict=True) for row in both_rows][: len(topics)]}
    chosen = kept.get(skill, topics if skill == "topics" else spoken)
    return [{**_as(kind, row), "number": number} for number, row in enumerate(chosen, 1)]


def backwards(draw: random.Random) -> Row:
    """Some words to say backwards, and the answer. No topic may end them, or the reward would take it for the topic."""
    ends = [word for word in gold.WORDS if word not in gold.TOPICS]
    words = [*draw.choices(gold.WORDS, k=SPOKEN - 1), draw.choice(ends)]
    answer = " ".join(reversed(words))
    return {"prompt": f"{BACKWARDS} {' '.join(words)}", "completion": answer, "answer": answer}


def _as(kind: str, row: Row) -> Row:
    if kind == "text":
        return {"text": f"{row['prompt']} {row['completion']}"}
    if kind == "demonstration":
        return {"prompt": row["prompt"], "completion": row["completion"]}
    return {**{key: value for key, value in row.items() if key != "completion"}, "demonstration": row["completion"]}


def texts(seed: int) -> list[str]:
    """The base's texts, of both skills in turn."""
    return [row["text"] for row in rows("train", "text", rows=TEXTS, seed=seed)]


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """The defaults of the gold world, whose reward judges topics."""
    return gold_world.defaults(algorithm)


WORLD = World(WORDS, rows, texts, training={"steps": 2500, "batch": 64, "lr": 3e-3}, defaults=defaults)
