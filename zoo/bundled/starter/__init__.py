"""The bundled starter set: prompts with instructions that can be checked, and answers judged by the checkers.

`rows` reads the packaged files; `records` makes canonical records of a kind from them. README.md in this folder says
how the files were made; tools/starter_set/build.py makes them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.rewards.instructions import followed
from zoo.rewards.prose import sentences

SPLITS = ("train", "heldout")
KINDS = ("demonstration", "preference", "feedback", "prompt", "ranking", "stepwise")
LASTING = ("max_sentences", "max_words", "no_commas", "avoid_words", "all_lowercase", "all_uppercase", "no_digits")
"""Checks that no further sentence can repair: an answer whose beginning breaks one of these breaks it as a whole."""


def records(split: str, kind: str) -> list[dict[str, Any]]:
    """Canonical records of a kind, in file order, each with `instructions`, `id`, `topic` and `row`.

    demonstration: the best answer that follows every instruction; a row without one is skipped.
    preference: that answer against the first answer that breaks an instruction; a row without both is skipped.
    feedback: one answer to each prompt, labelled by whether it follows every instruction: the best good answer, and for
    every fourth prompt the first bad one, so that no prompt has both. A good answer teaches more than a bad one.
    prompt: the prompt alone; no row is skipped.
    ranking: every kept answer, ranked by the number of instructions it breaks; a row in which all answers break
    equally many is skipped.
    stepwise: every kept answer of two sentences or more, with its sentences as steps; a step has label 1 as long as
    none of the row's LASTING instructions is broken, and -1 from there on; a row without such an instruction is
    skipped.
    """
    if kind not in KINDS:
        raise ZooError(
            f"The starter set has no records of kind '{kind}'.{nearest(kind, KINDS)}",
            hint=f"Kinds: {', '.join(KINDS)}.",
        )
    return [record for row in rows(split) for record in _records(row, kind)]


def rows(split: str) -> list[dict[str, Any]]:
    """The lines of a split ("train" or "heldout") with their 1-based line number as `row`."""
    if split not in SPLITS:
        raise NoSuchSplit(
            f"The starter set has no split '{split}'.{nearest(split, SPLITS)}",
            hint=f"Splits: {', '.join(SPLITS)}.",
        )
    text = (files(__name__) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [{**json.loads(line), "row": number} for number, line in enumerate(text.split("\n"), 1) if line]


def _records(row: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The records that one row gives: none, one, or for feedback one per answer."""
    common = {key: row[key] for key in ("prompt", "instructions", "id", "topic", "row")}
    passing = [_said(answer) for answer in row["answers"] if all(answer["followed"])]
    failing = [_said(answer) for answer in row["answers"] if not all(answer["followed"])]
    if kind == "prompt":
        yield common
    elif kind == "demonstration" and passing:
        yield {**common, "completion": passing[0]}
    elif kind == "preference" and passing and failing:
        yield {**common, "chosen": passing[0], "rejected": failing[0]}
    elif kind == "ranking":
        broken = [answer["followed"].count(False) for answer in row["answers"]]
        if len(set(broken)) > 1:
            yield {**common, "completions": [_said(answer) for answer in row["answers"]], "ranks": broken}
    elif kind == "stepwise":
        yield from ({**common, **steps} for steps in _stepwise(row))
    elif kind == "feedback":
        good = bool(passing) and (row["row"] % 4 != 0 or not failing)
        yield {**common, "completion": (passing if good else failing)[0], "label": good}


def _stepwise(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Steps and labels of the row's answers."""
    lasting = [instruction for instruction in row["instructions"] if instruction["check"] in LASTING]
    for answer in row["answers"] if lasting else []:
        steps = sentences(answer["text"])
        beginnings = ["\n".join(steps[: i + 1]) for i in range(len(steps))]
        if len(steps) > 1:
            yield {"steps": steps, "labels": [1 if all(followed(text, lasting)) else -1 for text in beginnings]}


def _said(answer: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer["text"]}]
