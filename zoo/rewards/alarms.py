"""Warnings about a rollout's rewards: nothing to learn from, answers cut short, rewards missing.

Each warning is printed once per run: nobody reads a warning that comes with every step.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

IN_A_ROW = 3
"""After this many consecutive rollouts whose rewards are all one number, a warning is printed; if all are missing, the
run ends."""
FLAT, CUT, MISSING = 0.8, 0.5, 0.5
"""The shares of a rollout from which on a warning is printed."""


class Alarms:
    """Looks at one rollout after another, and gives each warning once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._constant = 0
        self._last = math.nan

    def look(
        self, rewards: Iterable[float | None], groups: Sequence[Hashable] | None = None, cut: Sequence[bool] = ()
    ) -> list[str]:
        """The new warnings about B answers. rewards: NaN or None if missing; groups: the prompt of each answer."""
        values = [math.nan if value is None else float(value) for value in rewards]
        warnings = {
            "constant": self._constant_rewards(values),
            "flat": flat_groups(values, groups) if groups is not None else "",
            "cut": cut_answers(cut),
            "missing": missing_rewards(values),
        }
        new = {name: text for name, text in warnings.items() if text and name not in self._said}
        self._said |= set(new)
        return list(new.values())

    def _constant_rewards(self, values: Sequence[float]) -> str:
        distinct = {value for value in values if not math.isnan(value)}
        if not distinct:
            return ""
        self._constant = (self._constant + 1 if self._last in distinct else 1) if len(distinct) == 1 else 0
        self._last = next(iter(distinct))
        if self._constant < IN_A_ROW:
            return ""
        return (
            f"Every reward of the last {IN_A_ROW} rollouts was {self._last:g}, so there was nothing to learn. Look in "
            "samples.jsonl whether the answers deserve it; `zoo eval MODEL --reward …` tests a reward alone."
        )


def flat_groups(values: Sequence[float], groups: Sequence[Hashable]) -> str:
    """A warning if the answers to most prompts have equal rewards: then their relative advantages are zero."""
    by_prompt: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        by_prompt.setdefault(group, []).append(value)
    several = [[v for v in group if not math.isnan(v)] for group in by_prompt.values() if len(group) > 1]
    scored = [group for group in several if group]
    flat = [group for group in scored if len(set(group)) == 1]
    if not scored or len(flat) < FLAT * len(scored):
        return ""
    return (
        f"{len(flat)} of {len(scored)} prompts have answers that all got the same reward: a comparison within a group "
        "learns nothing from them. More --answers-per-prompt, a higher --temperature, prompts of another difficulty, "
        "or a finer-grained reward would help."
    )


def cut_answers(cut: Sequence[bool]) -> str:
    """A warning if many answers were cut off."""
    share = sum(map(bool, cut)) / len(cut) if len(cut) else 0.0
    if share < CUT:
        return ""
    return (
        f"{share:.0%} of the answers were cut off at the longest length, so only their beginnings are judged. Raise "
        "--max-new-tokens, or reward shorter answers."
    )


def missing_rewards(values: Sequence[float]) -> str:
    """A warning if many answers have no reward."""
    share = sum(map(math.isnan, values)) / len(values) if values else 0.0
    if share < MISSING:
        return ""
    return f"{share:.0%} of the answers have no reward and are not learned from; the reasons are printed with them."
