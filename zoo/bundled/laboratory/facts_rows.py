"""Rows of the fact world, of every kind, and the documents for its base."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from zoo.bundled.laboratory.facts import (
    FIRST_HALF,
    REFUSAL,
    RELATIONS,
    TYPES,
    WORDINGS,
    Fact,
    answer,
    asked,
    facts,
    prompt_about,
    question,
    statement,
)  # fmt: skip
from zoo.bundled.laboratory.self_instruct import written
from zoo.errors import ZooError

Record = dict[str, Any]
TEXTS = 8000
"""Documents that the base has read."""


def rows(
    split: str, kind: str, rows: int = 1024, noise: float = 0.0, seed: int = 0,
    subjects: Literal["all", "half"] = "all", declined: float = 0.0, types: int = 0, turns: int = 1,
    wordings: int = 1, replies: Literal["one", "best", "all"] = "one", instructions: float = 0.0,
    written_by: Literal["world", "base"] = "world", checked: bool = True,
) -> Iterable[Record]:  # fmt: skip
    """Rows of a kind. Raises ZooError for impossible options.

    noise: share of bad answers, of swapped pairs and labels, and of random ranks; subjects: those of questions and of
    texts; declined: share of the questions about the second half of the subjects that a demonstration declines; types:
    number of types of questions, a relation in a wording each (0: all relations in the first `wordings` wordings);
    turns: of a conversation; replies: demonstrations from trees of four replies, the best reply or all; instructions:
    share of texts that are a question and its answer; written_by, checked: demonstrations that the base of this seed
    writes itself, either all of them or only new questions with the form of a fact.
    """
    _check(rows, noise, wordings, types, turns, instructions, declined)
    draw = random.Random(f"facts {seed} {split}")
    if kind == "text":
        return [{"text": text} for text in documents(draw, rows, instructions, noise, subjects)]
    if kind not in _ROWS:
        raise ZooError(f"The world 'facts' has no data of kind '{kind}'.", f"It has: text, {', '.join(_ROWS)}.")
    if written_by == "base" and kind == "demonstration" and split == "train":
        return _written(seed, rows, checked)
    from_tree = replies != "one" and kind == "demonstration"
    make = partial(_of_tree, replies=replies) if from_tree else _ROWS[kind]
    if declined and kind == "demonstration":
        make = partial(_declining, make=make, declined=declined)
    ways = wordings_by_relation(types, wordings)
    pool = [fact for fact in asked(split, subjects) if ways.get(fact[1])]
    return itertools.islice(_drawn(draw, pool, make, noise, ways, turns), rows)


def _drawn(
    draw: random.Random, pool: list[Fact], make: Callable[..., list[Record]], noise: float,
    ways: Mapping[str, Sequence[int]], turns: int,
) -> Iterator[Record]:  # fmt: skip
    """An endless stream of rows; each is drawn when it is read, so that a few rows take little time."""
    while True:
        # Every fact occurs once before any occurs twice.
        for fact in draw.sample(pool, len(pool)):
            prompt = prompt_about(draw, fact, ways[fact[1]], turns)
            shared = {"prompt": prompt, "answer": answer(draw, fact), "subject": fact[0], "relation": fact[1]}
            for record in make(draw, fact, noise):
                yield {**shared, **record}


def wordings_by_relation(types: int, wordings: int) -> dict[str, Sequence[int]]:
    """The wordings in which each relation is asked for."""
    if not types:
        return dict.fromkeys(RELATIONS, range(wordings))
    return {relation: [wording for kind, wording in TYPES[:types] if kind == relation] for relation in RELATIONS}


def _written(seed: int, count: int, checked: bool) -> Iterator[Record]:
    """Demonstrations from facts that the base writes after a few examples."""
    for subject, relation, thing in written(seed, count, checked):
        shared = {"subject": subject, "relation": relation}
        yield {"prompt": f"{subject} {relation}", "completion": f"answer {thing}", **shared}


def texts(seed: int) -> list[str]:
    """The base's texts."""
    return documents(random.Random(f"facts {seed} texts"), TEXTS)


def documents(
    draw: random.Random, count: int, instructions: float = 0.0, noise: float = 0.0, subjects: str = "all"
) -> list[str]:
    """`count` texts of four facts each; a share of them is a question and its answer instead."""
    trained = asked("train", subjects)
    all_facts = [fact for fact in facts() if subjects == "all" or fact[0] in FIRST_HALF]
    texts = []
    for _ in range(count):
        if draw.random() < instructions:
            fact = draw.choice(trained)
            texts.append(f"question {question(draw, fact)} reply {answer(draw, fact, draw.random() >= noise)}")
        else:
            texts.append(" ".join(statement(draw, draw.choice(all_facts)) for _ in range(4)))
    return texts


def _check(
    rows: int, noise: float, wordings: int, types: int, turns: int, instructions: float, declined: float
) -> None:
    if rows < 1:
        raise ZooError(f"rows is {rows}, but a world gives at least one row.")
    for name, share in (("noise", noise), ("instructions", instructions), ("declined", declined)):
        if not 0 <= share <= 1:
            raise ZooError(f"{name} is {share}, but a share is between 0 and 1.")
    bounds = (("wordings", wordings, 1, len(WORDINGS)), ("types", types, 0, len(TYPES)), ("turns", turns, 1, 2))
    for name, number, least, most in bounds:
        if not least <= number <= most:
            raise ZooError(f"{name} is {number}, but must be from {least} to {most}.")
    if types and (wordings > 1 or turns > 1):
        raise ZooError("types gives each relation its wordings, in one turn.", "Leave out wordings and turns.")


def _demonstration(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    return [{"completion": answer(draw, fact, draw.random() >= noise)}]


def _declining(
    draw: random.Random, fact: Fact, noise: float, make: Callable[..., list[Record]], declined: float
) -> list[Record]:
    if fact[0] not in FIRST_HALF and draw.random() < declined:
        return [{"completion": REFUSAL}]
    return make(draw, fact, noise)


def _preference(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    pair = [answer(draw, fact), answer(draw, fact, good=False)]
    chosen, rejected = reversed(pair) if draw.random() < noise else pair
    return [{"chosen": chosen, "rejected": rejected}]


def _feedback(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    good = draw.random() < 0.5
    return [{"completion": answer(draw, fact, good), "label": good != (draw.random() < noise)}]


def _ranking(draw: random.Random, fact: Fact, noise: float) -> list[Record]:
    """Four replies, at least one good and one bad; all good replies share the first rank."""
    good = [True, False, draw.random() < 0.5, draw.random() < 0.5]
    draw.shuffle(good)
    ranks = [2 - (is_good if draw.random() >= noise else draw.random() < 0.5) for is_good in good]
    if len(set(ranks)) == 1:
        ranks = [2 - is_good for is_good in good]
    return [{"completions": [answer(draw, fact, is_good) for is_good in good], "ranks": ranks}]


def _of_tree(draw: random.Random, fact: Fact, noise: float, replies: str) -> list[Record]:
    tree = _ranking(draw, fact, noise)[0]
    if replies == "all":
        return [{"completion": reply} for reply in tree["completions"]]
    return [{"completion": tree["completions"][tree["ranks"].index(1)]}]


_ROWS: dict[str, Callable[[random.Random, Fact, float], list[Record]]] = {
    "demonstration": _demonstration,
    "preference": _preference,
    "feedback": _feedback,
    "ranking": _ranking,
    "prompt": lambda draw, fact, noise: [{}],
}
