"""Tasks of the library reasoning-gym, as a data source and as its reward.

    zoo train --algo NAME --data reasoning-gym:chain_sum+leg_counting --reward reasoning_gym

A row is a question generated from a seed, with everything that its verifier needs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.libraries.extras import needs
from zoo.rewards.arithmetic import verified
from zoo.rewards.missing import Missing
from zoo.rewards.references import tagged

ROWS = {"train": 2000, "heldout": 100}
"""The number of questions in each split. Every split has a seed of its own."""


def questions(split: str, kind: str, tasks: str = "") -> list[dict[str, Any]]:
    """Rows of one or several tasks, in turn: prompt, answer, and the task with its entry. Raises ZooError."""
    needs("reasoning_gym", "reasoning", "reasoning-gym")
    from reasoning_gym.factory import DATASETS, create_dataset

    names = [name for name in tasks.split("+") if name]
    if split not in ROWS:
        raise NoSuchSplit(f"reasoning-gym has no split '{split}'.{nearest(split, ROWS)}", f"It has: {', '.join(ROWS)}.")
    unknown = [name for name in names if name not in DATASETS]
    if unknown or not names:
        missing = f"no task '{unknown[0]}'.{nearest(unknown[0], DATASETS)}" if unknown else "many tasks: name one."
        raise ZooError(
            f"reasoning-gym has {missing}",
            "Write --data reasoning-gym:TASK or reasoning-gym:TASK+TASK. Tasks: " + ", ".join(sorted(DATASETS)) + ".",
        )
    seed = list(ROWS).index(split)
    datasets = [create_dataset(name, size=ROWS[split] // len(names), seed=seed) for name in names]
    return [row for entries in zip(*datasets, strict=True) for row in _rows(names, entries, kind)]


def _rows(names: Sequence[str], entries: Sequence[Mapping[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    for name, entry in zip(names, entries, strict=True):
        row = {"prompt": entry["question"], "answer": entry["answer"], "task": name, "entry": dict(entry)}
        # For other kinds of data the reference answer, if there is one, is the answer to learn.
        yield row if kind == "prompt" else {**row, "completion": str(entry["answer"])}


def reasoning_gym(completions: Sequence[str], records: Sequence[Mapping[str, Any]], tag: str = "answer") -> list[Any]:
    """The verifier's score, 0 to 1, for the last <answer>…</answer>, or for the whole answer if there is none."""
    needs("reasoning_gym", "reasoning", "reasoning_gym")
    return [_score(text, record, tag) for text, record in zip(completions, records, strict=True)]


def _score(text: str, record: Mapping[str, Any], tag: str) -> float | Missing:
    task, entry = record.get("task"), record.get("entry")
    if not isinstance(task, str) or not isinstance(entry, Mapping):
        return Missing("the row is not from --data reasoning-gym:TASK: it has no task and entry")
    answer = tagged(text, tag)
    verifier, entry = _verifier(task), dict(entry)
    try:
        value, refused = verified(verifier, text.strip() if answer is None else answer, entry)
    except (ValueError, TypeError, LookupError, AttributeError):
        # Some verifiers raise on text without the form of an answer. If they raise on the right answer, the row is bad.
        if entry.get("answer") is None:
            raise
        verified(verifier, entry["answer"], entry)
        return 0.0
    # Not every verifier passes on an error: some count it as the right form with a wrong result.
    return 0.0 if refused else float(value)


@functools.cache
def _verifier(task: str) -> Any:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(task)
