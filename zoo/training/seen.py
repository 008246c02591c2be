"""What was scored in a rollout: its numbers, and a few answers to read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.types import Answer, Answers


class Seen:
    """What was scored in a rollout."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.texts: list[str] = []
        self.values: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self.failures: Counter[str] = Counter()
        """Why rewards are missing, those of beginnings of answers too, and how many each."""
        self.asked = 0
        self.rewarded = True
        """Whether there is a reward at all."""

    def add(
        self, answers: Answers, texts: Sequence[str], values: Sequence[float], parts: Mapping[str, Sequence[float]]
    ) -> None:
        self.answers += answers
        self.texts += texts
        self.values += values
        for name, column in parts.items():
            self.parts.setdefault(name, []).extend(column)

    def forget(self, answers: Sequence[Answer]) -> None:
        """Others stand in for these. What failed when they were scored stays on record."""
        gone = {id(answer) for answer in answers}
        kept = [i for i, answer in enumerate(self.answers) if id(answer) not in gone]
        columns: list[list[Any]] = [self.answers, self.texts, self.values, *self.parts.values()]
        for column in columns:
            column[:] = [column[i] for i in kept]

    def fail(self, asked: int, failures: Mapping[str, int]) -> None:
        """So many rewards were asked for, and some are missing."""
        self.asked += asked
        self.failures.update(failures)

    def metrics(self) -> dict[str, float]:
        if not self.answers:
            return {}
        known = [value for value in self.values if not math.isnan(value)]
        average = mean(known)
        lengths = [len(answer.completion) for answer in self.answers]
        found = {
            "rollout/reward": average,
            "rollout/reward_std": math.sqrt(mean([(value - average) ** 2 for value in known])),
            "rollout/missing": 1 - len(known) / len(self.values),
            "rollout/length": mean(lengths),
            "rollout/length_max": float(max(lengths)),
            "rollout/cut": mean([float(answer.cut) for answer in self.answers]),
        }
        if ended := [len(answer.completion) for answer in self.answers if not answer.cut]:
            found["rollout/length_ended"] = mean(ended)
        if not self.rewarded:
            return {name: value for name, value in found.items() if name.startswith(("rollout/length", "rollout/cut"))}
        if len(self.parts) > 1:
            found |= {f"rollout/reward/{name}": mean(column) for name, column in self.parts.items()}
        groups: dict[int | None, set[float]] = {}
        for answer, value in zip(self.answers, self.values, strict=True):
            groups.setdefault(answer.row, set()).update([] if math.isnan(value) else [value])
        if len(groups) < len(self.answers):
            found["rollout/flat_groups"] = mean([float(len(values) < 2) for values in groups.values()])
            found |= self._right()
        return found

    def _right(self) -> dict[str, float]:
        """Share of the prompts by how many of their answers are right, where every reward is 0 or 1."""
        if not {value for value in self.values if not math.isnan(value)} <= {0.0, 1.0}:
            return {}
        answers = Counter(answer.row for answer in self.answers)
        right = Counter(answer.row for answer, value in zip(self.answers, self.values, strict=True) if value == 1.0)
        counts = Counter(right[row] for row in answers)
        return {f"rollout/groups/{k}": counts[k] / len(answers) for k in range(max(answers.values()) + 1)}

    def samples(self, records: Mapping[int, Any], count: int) -> list[dict[str, Any]]:
        """The first answers to `count` prompts, to read."""
        first = {answer.row: i for i, answer in reversed(list(enumerate(self.answers)))}
        return [
            {
                "prompt": records[row]["prompt"],  # type: ignore[index]
                "answer": self.texts[i],
                "score": None if math.isnan(self.values[i]) else self.values[i],
                "length": len(self.answers[i].completion),
                "cut": self.answers[i].cut,
            }
            for row, i in sorted(first.items(), key=lambda item: item[1])[:count]
        ]


def mean(values: Sequence[float]) -> float:
    """Of the values that there are."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
