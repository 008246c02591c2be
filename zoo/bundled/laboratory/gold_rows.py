"""Rows of the gold world, of every kind but steps, as raters see them: right, often right, or partial to length."""

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
    """Rows of a kind, drawn as they are read. Raises ZooError for kinds, splits and shares that there are not.

    rows: prompts that are drawn, a sixteenth as many held out; noise: share of pairs and labels that are the wrong way
    round, and of rankings that mean nothing; length_bias: what the rater adds to the raw worth for each word; answers:
    feedback on both answers of each pair, or on one of them; desirable: share of the good feedback that is kept;
    judged: the rater goes by what answers are worth, or by their bad words alone; shown: demonstrations are answers of
    the grammar as they come, the chosen ones of the pairs, answers whose bad words were revised, or refusals.

    Pairs, feedback and rankings of equal options are about the same answers, so that what is learned from them can be
    compared.
    """
    if split not in ("train", "heldout"):
        raise NoSuchSplit(f"The gold world has no split '{split}'.", "There are: train, heldout.")
    if kind not in KINDS:
        raise ZooError(
            f"The gold world has no data of kind '{kind}'.{nearest(kind, KINDS)}", f"There are: {', '.join(KINDS)}."
        )
    if rows < 1 or not 0 <= noise <= 1 or not 0 <= desirable <= 1:
        raise ZooError("Of the options of world:gold, rows is 1 or more, and noise and desirable lie between 0 and 1.")
    rater = Rater(random.Random(f"{split} {seed}"), noise, length_bias, answers, desirable, judged, shown)
    count = rows if split == "train" else max(1, rows // 16)
    found = (row for _ in range(count) for row in KINDS[kind](rater, rater.draw.choice(TOPICS)))
    # Many rows would be equal otherwise, and reported as such.
    return ({**row, "number": number} for number, row in enumerate(found, 1))


@dataclass
class Rater:
    """Who draws two answers at a time, and says which is better. Its fields are the options of `rows`."""

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
        """Two answers that can be told apart, the one called better first."""
        while True:
            one, other = answer(self.draw, topic), answer(self.draw, topic)
            difference = self.rated(one, topic) - self.rated(other, topic)
            if difference:
                wrong = self.draw.random() < self.noise
                return (one, other) if (difference > 0) != wrong else (other, one)


def _preference(rater: Rater, topic: str) -> list[Row]:
    chosen, rejected = rater.pair(topic)
    return [{"prompt": topic, "chosen": chosen, "rejected": rejected}]


def _demonstration(rater: Rater, topic: str) -> list[Row]:
    """An answer to learn. A revision says something plain wherever the answer said something bad."""
    if rater.shown == "refused":
        return [{"prompt": topic, "completion": REFUSAL}]
    text = rater.pair(topic)[0] if rater.shown == "chosen" else answer(rater.draw, topic)
    if rater.shown == "revised":
        text = " ".join(rater.draw.choice(PLAIN) if word in BAD else word for word in text.split())
    return [{"prompt": topic, "completion": text}]


def _feedback(rater: Rater, topic: str) -> list[Row]:
    """The answers of a pair, one by one. What is left out is drawn elsewhere, so that the pairs stay the same."""
    pair = rater.pair(topic)
    apart = random.Random(repr((topic, pair)))
    kept = [0, 1] if rater.answers == "both" else [apart.randrange(2)]
    rated = [{"prompt": topic, "completion": pair[side], "label": side == 0} for side in kept]
    return [row for row in rated if not row["label"] or apart.random() < rater.desirable]


def _ranking(rater: Rater, topic: str) -> list[Row]:
    """Four answers, the best ranked 1, equally good ones alike."""
    four = [answer(rater.draw, topic) for _ in range(4)]
    rated = [rater.rated(text, topic) for text in four]
    if rater.draw.random() < rater.noise:
        rater.draw.shuffle(rated)
    ranks = [1 + sum(other > one for other in rated) for one in rated]
    return [{"prompt": topic, "completions": four, "ranks": ranks}]


KINDS: dict[str, Callable[[Rater, str], list[Row]]] = {
    "text": lambda rater, topic: [{"text": f"{topic} {answer(rater.draw, topic)}"}],
    "demonstration": _demonstration,
    "preference": _preference,
    "feedback": _feedback,
    "ranking": _ranking,
    # With a text for those who mix pretraining into their rollouts.
    "prompt": lambda rater, topic: [{"prompt": topic, "demonstration": answer(rater.draw, topic)}],
}
