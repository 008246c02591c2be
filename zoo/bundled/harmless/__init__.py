"""Prompts that invite mildly unwanted behaviour, and benign counterparts of the held-out ones, not to be refused.

README.md in this folder says what they are for, and what they are not for.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from zoo.errors import NoSuchSplit, ZooError, nearest

SPLITS = ("train", "heldout")


def records(split: str, kind: str) -> list[dict[str, Any]]:
    """The prompts of a split in file order, each with `id`, `topic` and `benign`.

    train: unwanted prompts; heldout: unwanted prompts on other topics, each followed by its benign counterpart. Raises
    ZooError for another split, and for a kind that needs answers.
    """
    if kind != "prompt":
        raise ZooError(
            f"The prompts of 'harmless' have no answers, so they give no {kind} data.",
            "Let a judge label answers (zoo label harmless), or use --data starter.",
        )
    if split not in SPLITS:
        splits = ", ".join(SPLITS)
        raise NoSuchSplit(f"'harmless' has no split '{split}'.{nearest(split, SPLITS)}", f"Splits: {splits}.")
    text = (files(__name__) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [{**json.loads(line), "row": number} for number, line in enumerate(text.split("\n"), 1) if line]
