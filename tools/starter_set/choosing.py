"""Chooses, among all answers to a prompt, the up to four that the starter set keeps.

A passing answer follows every instruction and came to its own end; a failing one breaks at least one. Among
the passing the one with the fewest flaws is best, then a plain sample before a few-shot one before a
repaired one. Failing answers are plain samples of about the length of the best passing one, so that length
does not give the difference away; one that ran into the length limit is shortened to its last full sentence
and counts as repaired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from starter_set.prompts import Prompt
from starter_set.repair import CHATTER, repaired, trimmed
from zoo.rewards.instructions import followed
from zoo.rewards.prose import sentences, words

ORIGINS = ("sample", "few-shot", "repaired")
SHORTEST, LONGEST = 8, 80
"""Words that a good answer has."""
MOST_PASSING, MOST_FAILING = 2, 2

LEAK = re.compile(r"\b(kites?|tomato(?:es)?|litres?|greasy|soap)\b", re.IGNORECASE)
"""Words of the worked examples, which a few-shot answer may copy."""
STOP_WORDS = frozenset(
    (
        "about", "with", "that", "from", "what", "your", "does", "their", "than", "into", "someone",
        "learns", "when", "used",
    )
)


@dataclass(frozen=True)
class Candidate:
    """An answer with what the checkers say of it."""

    text: str
    followed: tuple[bool, ...]
    origin: str
    flaws: int

    @property
    def passes(self) -> bool:
        """Whether it follows every instruction."""
        return all(self.followed)

    def stored(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"text": self.text, "followed": list(self.followed), "origin": self.origin}


def candidates(prompt: Prompt, plain: list, hinted: list) -> list[Candidate]:
    """All usable answers made from the samples: as they are where they ended, trimmed, and repaired."""
    texts: list[tuple[str, str]] = []
    for origin, samples in (("sample", plain), ("few-shot", hinted)):
        for number, sample in enumerate(samples):
            whole = sample.text if sample.ended else trimmed(sample.text)
            if whole and (sample.ended or origin == "sample"):
                texts.append((whole, origin if sample.ended else "repaired"))
            edited = repaired(sample.text, prompt, number + sum(map(ord, prompt.id)))
            if edited:
                texts.append((edited, "repaired"))
    unique: dict[str, str] = {}
    for text, origin in texts:
        unique.setdefault(text, origin)
    return [
        Candidate(text, tuple(followed(text, prompt.instructions)), origin, flaws(text, prompt))
        for text, origin in unique.items()
        if words(text)
    ]


def chosen(found: list[Candidate], topic: str) -> list[Candidate]:
    """The kept answers: passing ones first (there may be none), the best of each in front."""
    passing = sorted((one for one in found if one.passes), key=lambda one: _cost(one, topic))
    length = len(words(passing[0].text)) if passing else LONGEST // 2
    failing = sorted(
        (one for one in found if not one.passes and one.origin != "few-shot"),
        key=lambda one: (one.flaws, one.origin != "sample", abs(len(words(one.text)) - length)),
    )
    best = passing[:1]
    more = [
        other
        for one in best
        for other in passing[1:]
        if other.flaws <= one.flaws and not _alike(other.text, one.text)
    ]
    return [*best, *more[: MOST_PASSING - 1], *failing[:MOST_FAILING]]


def _cost(one: Candidate, topic: str) -> tuple[int, int, bool]:
    # a repaired answer without flaws is better teaching than a plain sample that is off the topic
    return one.flaws, ORIGINS.index(one.origin), not _on_topic(sentences(one.text)[0].lower(), topic)


def _alike(first: str, second: str) -> bool:
    """Whether two answers share more than half of their words, as a text and its repaired form do."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) > 0.5 * min(len(one), len(other))


def flaws(text: str, prompt: Prompt) -> int:
    """How many things make an answer a poor example, whatever its instructions say of it."""
    lowered = text.lower()
    count = len(words(text))
    asked = {instruction["check"] for instruction in prompt.instructions}
    # items that differ only in their number are the same
    parts = [re.sub(r"^\W*(?:\d+[.)])?\s*", "", part) for part in sentences(lowered)]
    return sum(
        (
            2 * (not _on_topic(lowered, prompt.topic)),
            2 * any(phrase.lower().rstrip(".") in lowered for phrase in prompt.phrases),
            2 * (prompt.task.lower().rstrip("?. ") in lowered),
            bool(CHATTER.search(text)),
            2 * bool(LEAK.search(text) and not LEAK.search(prompt.topic)),
            2 * (len(set(parts)) < len(parts)),
            count > 12 and len(set(lowered.split())) < 0.6 * count,
            2 * bool(re.search(r"[\[\]]|\*\*|\d{5}|[^\x00-\u024f\u2010-\u2026]", text)),
            count < SHORTEST,
            count > LONGEST,
            "json_object" not in asked and not re.search(r"[.!?][\"”')*]*$", text.strip()),
        )
    )


def _on_topic(lowered: str, topic: str) -> bool:
    """Whether the answer shares the stem of a longer word with the topic."""
    long_words = set(re.findall(r"[a-z]{4,}", topic.lower())) - STOP_WORDS
    return any(word[:4] in lowered for word in long_words or {topic.lower()})
