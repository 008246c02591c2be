"""Rollouts in which no answer got a reward: said, counted, and the end of a run where it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

from zoo.errors import TrainingStopped
from zoo.rewards.alarms import IN_A_ROW
from zoo.training.seen import Seen


class Unrewarded:
    """Looks at one rollout after the other, on every process alike."""

    def __init__(self) -> None:
        self.count, self.in_a_row = 0, 0
        """Since the run began, and up to now without one that had a reward."""

    def look(self, seen: Seen, step: int, say: Callable[[str], None]) -> None:
        """seen: what the rollout before step + 1 scored. Raises TrainingStopped."""
        if not seen.rewarded or not seen.values:
            return
        if not all(map(math.isnan, seen.values)):
            self.in_a_row = 0
            return
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        say(f"Step {step + 1}: none of the {len(seen.values)} answers got a reward; nothing is learned from them.")
        if self.in_a_row < IN_A_ROW:
            return
        reasons = "; ".join(reason for reason, _ in seen.failures.most_common(3))
        raise TrainingStopped(
            f"In {IN_A_ROW} rollouts one after the other no answer got a reward, the last time before step "
            f"{step + 1}: {reasons or 'no reason given'}.",
            "Give the reward the data that it reads, or take another one; `zoo eval MODEL --reward …` tries it alone.",
        )
