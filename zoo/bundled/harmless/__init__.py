"""Prompts that invite mildly unwanted behaviour, and benign twins of the held-out ones that nobody should refuse.

README.md beside this file tells what they are for, and what they are not.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from zoo.errors import NoSuchSplit, ZooError, nearest

SPLITS = ("train", "heldout")


def records(split: str, kind: str) -> list[dict[str, Any]]:
    """The prompts of a split in file order, each with `id`, `topic` and `benign`.

    train: unwanted ones; heldout: on other topics, each followed by its benign twin. Raises ZooError for another split,
    and for a kind that needs answers.
    """
    if kind != "prompt":
        raise ZooError(
            f"The prompts of 'harmless' have no answers, so there is no {kind} data of them.",
            "Let a judge make some (zoo label harmless), or take --data starter.",
        )
    if split not in SPLITS:
        known = ", ".join(SPLITS)
        raise NoSuchSplit(f"'harmless' has no split '{split}'.{nearest(split, SPLITS)}", f"Splits: {known}.")
    text = (files(__name__) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [{**json.loads(line), "row": number} for number, line in enumerate(text.split("\n"), 1) if line]
