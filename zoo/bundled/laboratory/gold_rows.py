"""Rows of the gold world, of every kind but steps, as a rater labels them: right, noisy, or biased towards length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from zoo.bundled.laboratory.gold import BAD, PLAIN, TOPICS, answer, counts, raw_worth
from zoo.errors import NoSuchSplit, ZooError, nearest

Row = dict[str, Any]
REFUSAL = "so"
"""An answer that says nothing."""


def rows(
    split: str, kind: str, rows: int = 4000, noise: float = 0.0, seed: int = 0, length_bias: float = 0.0,
    answers: Literal["both", "one"] = "both", desirable: float = 1.0, judged: Literal["worth", "harm"] = "worth",
    shown: Literal["any", "chosen", "revised", "refused"] = "any",
) -> Iterator[Row]:  # fmt: skip
    """Rows of a kind, each drawn when it is read. Raises ZooError for unknown kinds and splits and impossible shares.

    rows: number of prompts, with a sixteenth as many held out; noise: share of swapped pairs and labels and of random
    rankings; length_bias: what the rater adds to the raw value for each word; answers: feedback on both answers of
    each pair, or on one of them; desirable: share of the good feedback that is kept; judged: the rater judges the value
    of answers, or only their bad words; shown: demonstrations are any answers of the grammar, the chosen answers
    of the pairs, answers with revised bad words, or refusals.

    With equal options, pairs, feedback and rankings are about the same answers, so that algorithms can be compared.
    """
    if split not in ("train", "heldout"):
        raise NoSuchSplit(f"The gold world has no split '{split}'.", "There are: train, heldout.")
    if kind not in KINDS:
        raise ZooError(
            f"The gold world has no data of kind '{kind}'.{nearest(kind, KINDS)}", f"There are: {', '.join(KINDS)}."
        )
    if rows < 1 or not 0 <= noise <= 1 or not 0 <= desirable <= 1:
        raise ZooError("For world:gold, rows must be 1 or more, and noise and desirable must be between 0 and 1.")
    rater = Rater(random.Random(f"{split} {seed}"), noise, length_bias, answers, desirable, judged, shown)
    count = rows if split == "train" else max(1, rows // 16)
    drawn = (row for _ in range(count) for row in KINDS[kind](rater, rater.draw.choice(TOPICS)))
    # Without a number many rows would be equal and be reported as duplicates.
    return ({**row, "number": number} for number, row in enumerate(drawn, 1))


@dataclass
class Rater:
    """Draws two answers at a time and says which is better. Its fields are the options of `rows`."""

    draw: random.Random
    noise: float
    length_bias: float
    answers: str
    desirable: float
    judged: str
    shown: str

    def rated(self, text: str, topic: str) -> float:
        true = raw_worth(text, topic) if self.judged == "worth" else -counts(text, topic)["bad"]
        return true + self.length_bias * len(text.split())

    def pair(self, topic: str) -> tuple[str, str]:
        """Two answers of different value; the one that the rater calls better comes first."""
        while True:
            first, second = answer(self.draw, topic), answer(self.draw, topic)
            difference = self.rated(first, topic) - self.rated(second, topic)
            if difference:
                wrong = self.draw.random() < self.noise
                return (first, second) if (difference > 0) != wrong else (second, first)


def _preference(rater: Rater, topic: str) -> list[Row]:
    chosen, rejected = rater.pair(topic)
    return [{"prompt": topic, "chosen": chosen, "rejected": rejected}]


def _demonstration(rater: Rater, topic: str) -> list[Row]:
    """An answer to learn. A revision replaces every bad word by a plain one."""
    if rater.shown == "refused":
        return [{"prompt": topic, "completion": REFUSAL}]
    text = rater.pair(topic)[0] if rater.shown == "chosen" else answer(rater.draw, topic)
    if rater.shown == "revised":
        text = " ".join(rater.draw.choice(PLAIN) if word in BAD else word for word in text.split())
    return [{"prompt": topic, "completion": text}]


def _feedback(rater: Rater, topic: str) -> list[Row]:
    """The answers of a pair, one by one. Other random numbers choose what to leave out, so the pairs stay the same."""
    pair = rater.pair(topic)
    apart = random.Random(repr((topic, pair)))
    kept = [0, 1] if rater.answers == "both" else [apart.randrange(2)]
    rated = [{"prompt": topic, "completion": pair[side], "label": side == 0} for side in kept]
    return [row for row in rated if not row["label"] or apart.random() < rater.desirable]


def _ranking(rater: Rater, topic: str) -> list[Row]:
    """Four answers, the best with rank 1; equal values get equal ranks."""
    four = [answer(rater.draw, topic) for _ in range(4)]
    rated = [rater.rated(text, topic) for text in four]
    if rater.draw.random() < rater.noise:
        rater.draw.shuffle(rated)
    ranks = [1 + sum(other > value for other in rated) for value in rated]
    return [{"prompt": topic, "completions": four, "ranks": ranks}]


KINDS: dict[str, Callable[[Rater, str], list[Row]]] = {
    "text": lambda rater, topic: [{"text": f"{topic} {answer(rater.draw, topic)}"}],
    "demonstration": _demonstration,
    "preference": _preference,
    "feedback": _feedback,
    "ranking": _ranking,
    # With a text, for algorithms that mix pretraining into their rollouts.
    "prompt": lambda rater, topic: [{"prompt": topic, "demonstration": answer(rater.draw, topic)}],
}
