"""The prompts of the starter set: topics, tasks and instructions put together, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from starter_set.topics import CATEGORIES, Category
from starter_set.wordings import WORDINGS, compatible, instruction, phrased

SEED = 20
SIZES = {"train": 616, "heldout": 120}
SHARE_WITH_TWO = 0.4
"""Share of prompts with two instructions."""
SHARE_BEFORE = 0.25
"""Share of prompts where an instruction stands before the task."""
UNFIT = {
    "summary": ("min_words", "exactly_paragraphs", "numbered_list", "has_numbers", "words_between"),
    "story": ("has_numbers",),
    "encouragement": ("has_numbers", "numbered_list"),
    "email": ("has_numbers", "numbered_list"),
}
"""Checks that would make an odd request in a category."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: what it is about, what it asks, and what of that can be checked."""

    id: str
    topic: str
    task: str
    phrases: tuple[str, ...]
    """The instructions in words, in the order of `instructions`."""
    before: bool
    """Whether the first instruction stands before the task."""
    instructions: tuple[dict[str, Any], ...]

    @property
    def text(self) -> str:
        """What the user says."""
        if not self.phrases:
            return self.task
        first, *others = self.phrases
        return " ".join([first, self.task, *others] if self.before else [self.task, first, *others])


def prompts(split: str, seed: int = SEED) -> list[Prompt]:
    """The prompts of "train" or "heldout"."""
    draw = random.Random(f"{seed} {split}")
    asked: Counter[str] = Counter()
    paired: Counter[str] = Counter()
    return [
        _prompt(f"{split}-{number:03d}", category, topic, task, draw, asked, paired)
        for number, (category, topic, task) in enumerate(_tasks(split, draw), start=1)
    ]


def topics(split: str) -> list[str]:
    """All topics of a split."""
    return [topic for category in CATEGORIES for topic in _topics(category, split)]


def _topics(category: Category, split: str) -> tuple[str, ...]:
    return category.train if split == "train" else category.heldout


def _tasks(split: str, draw: random.Random) -> list[tuple[Category, str, str]]:
    """As many (category, topic, task) as the split needs: each topic once before any topic comes again."""
    tasks: list[tuple[Category, str, str]] = []
    for turn in range(4):
        this_turn = [
            (category, topic, category.tasks[(number + turn) % len(category.tasks)])
            for category in CATEGORIES
            for number, topic in enumerate(_topics(category, split))
        ]
        draw.shuffle(this_turn)
        tasks += this_turn
    if len(tasks) < SIZES[split]:
        raise AssertionError(f"{split}: only {len(tasks)} different tasks for {SIZES[split]} prompts")
    return tasks[: SIZES[split]]


def _prompt(
    id: str, category: Category, topic: str, task: str, draw: random.Random, asked: Counter, paired: Counter
) -> Prompt:
    """A prompt whose checks are those asked least so far."""
    fit = [check for check in WORDINGS if check not in UNFIT.get(category.name, ())]
    checks = [_rarest(fit, asked, draw)]
    partners = [check for check in fit if compatible(checks[0], check)]
    if partners and draw.random() < SHARE_WITH_TWO:
        checks.append(_rarest(partners, paired, draw))
        paired.update(checks)
    asked.update(checks)
    draw.shuffle(checks)
    instructions = _instructions(checks, category, draw)
    return Prompt(
        id=id,
        topic=topic.strip('"'),
        task=task.format(topic=topic),
        phrases=tuple(phrased(part, draw) for part in instructions),
        before=draw.random() < SHARE_BEFORE,
        instructions=instructions,
    )


def _rarest(checks: list[str], counts: Counter, draw: random.Random) -> str:
    fewest = min(counts[check] for check in checks)
    return draw.choice([check for check in checks if counts[check] == fewest])


def _instructions(checks: list[str], category: Category, draw: random.Random) -> tuple[dict[str, Any], ...]:
    """Parameters for each check; drawn again where they contradict each other."""
    while True:
        instructions = tuple(instruction(check, category, draw) for check in checks)
        if not contradiction(instructions):
            return instructions


def contradiction(instructions: tuple[dict[str, Any], ...]) -> bool:
    """Whether two instructions exclude each other: a pair not in COMPATIBLE, or parameters that clash."""
    for number, first in enumerate(instructions):
        for second in instructions[number + 1 :]:
            if not compatible(first["check"], second["check"]):
                return True
            if _clash(first, second) or _clash(second, first):
                return True
    return False


def _clash(first: dict[str, Any], second: dict[str, Any]) -> bool:
    checks = first["check"], second["check"]
    if checks == ("avoid_words", "include_words"):
        return bool(set(first["words"]) & set(second["words"]))
    if checks == ("start_with", "avoid_words") or checks == ("end_with", "avoid_words"):
        return bool(set(second["words"]) & set(first["phrase"].lower().strip(".").split()))
    if checks == ("max_sentences", "min_words"):
        return second["n"] > 20 * first["n"]
    return False
