"""Rollouts in which no answer got a reward: said, counted, and the end of a run where it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from zoo.errors import TrainingStopped
from zoo.rewards.alarms import IN_A_ROW


class Unrewarded:
    """Looks at one rollout after the other, on every process alike."""

    def __init__(self) -> None:
        self.count, self.in_a_row = 0, 0
        """Since the run began, and up to now without one that had a reward."""

    def look(self, asked: int, known: int, failures: Counter[str], step: int, say: Callable[[str], None]) -> None:
        """Of the rollout before step + 1: rewards or judgements asked for, how many there are, why others are not.

        Raises TrainingStopped.
        """
        if known or not asked:
            self.in_a_row = 0 if known else self.in_a_row
            return
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        say(f"Step {step + 1}: none of the {asked} answers got a reward; nothing is learned from them.")
        if self.in_a_row < IN_A_ROW:
            return
        reasons = "; ".join(reason for reason, _ in failures.most_common(3))
        raise TrainingStopped(
            f"In {IN_A_ROW} rollouts one after the other no answer got a reward, the last time before step "
            f"{step + 1}: {reasons or 'no reason given'}.",
            "Give the reward or judge what it reads, or take another one; `zoo eval MODEL --reward …` tries it alone.",
        )
