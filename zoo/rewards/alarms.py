"""What a rollout's rewards give cause to say: nothing to learn from, answers cut short, rewards missing.

Each is said once a run: an alarm that comes with every step is soon read by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

IN_A_ROW = 3
"""So many rollouts one after the other whose rewards are all the same number are said; if they are all missing, the run
ends."""
FLAT, CUT, MISSING = 0.8, 0.5, 0.5
"""Shares of a rollout from which on it is said."""


class Alarms:
    """Looks at one rollout after the other, and says each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._constant = 0
        self._last = math.nan

    def look(
        self, rewards: Iterable[float | None], groups: Sequence[Hashable] | None = None, cut: Sequence[bool] = ()
    ) -> list[str]:
        """What is to be said of B answers. rewards: NaN or None where missing; groups: the prompt of each."""
        values = [math.nan if value is None else float(value) for value in rewards]
        found = {
            "constant": self._constant_rewards(values),
            "flat": flat_groups(values, groups) if groups is not None else "",
            "cut": cut_answers(cut),
            "missing": missing_rewards(values),
        }
        new = {name: text for name, text in found.items() if text and name not in self._said}
        self._said |= set(new)
        return list(new.values())

    def _constant_rewards(self, values: Sequence[float]) -> str:
        known = {value for value in values if not math.isnan(value)}
        if not known:
            return ""
        self._constant = (self._constant + 1 if self._last in known else 1) if len(known) == 1 else 0
        self._last = next(iter(known))
        if self._constant < IN_A_ROW:
            return ""
        return (
            f"Every reward of the last {IN_A_ROW} rollouts was {self._last:g}, so there was nothing to learn. See in "
            "samples.jsonl whether the answers deserve it; `zoo eval MODEL --reward …` tries a reward by itself."
        )


def flat_groups(values: Sequence[float], groups: Sequence[Hashable]) -> str:
    """A sentence where most prompts have answers of one reward: relative to each other they are worth nothing."""
    by_prompt: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        by_prompt.setdefault(group, []).append(value)
    several = [[v for v in found if not math.isnan(v)] for found in by_prompt.values() if len(found) > 1]
    known = [found for found in several if found]
    flat = [found for found in known if len(set(found)) == 1]
    if not known or len(flat) < FLAT * len(known):
        return ""
    return (
        f"{len(flat)} of {len(known)} prompts have answers that all got the same reward: a comparison within a group "
        "learns nothing from these. More --answers-per-prompt, a higher --temperature, prompts of another difficulty, "
        "or a reward of finer steps would help."
    )


def cut_answers(cut: Sequence[bool]) -> str:
    """A sentence where many answers were stopped in their middle."""
    share = sum(map(bool, cut)) / len(cut) if len(cut) else 0.0
    if share < CUT:
        return ""
    return (
        f"{share:.0%} of the answers were cut at the longest length, and are judged by a beginning. Raise "
        "--max-new-tokens, or reward shorter answers."
    )


def missing_rewards(values: Sequence[float]) -> str:
    """A sentence where many answers have no reward."""
    share = sum(map(math.isnan, values)) / len(values) if values else 0.0
    if share < MISSING:
        return ""
    return f"{share:.0%} of the answers have no reward and are not learned from; the reasons are said beside."
