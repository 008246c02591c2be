"""Rewards of a rollout: computed by all processes together, collected for metrics and samples, and checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zoo.errors import TrainingStopped, ZooError
from zoo.processes import gathered, leads, my_place
from zoo.rewards.reward import Reward, Scored
from zoo.rollout.writer import Writer
from zoo.values.types import Answer, Answers

IN_A_ROW = 3
"""Consecutive rollouts without any reward after which the run ends."""
SHOWN = 3
"""Answers of a rollout, or of a validation, that go into samples.jsonl."""


class Scores(NamedTuple):
    """Rewards of B answers. values: B numbers, NaN where missing; parts: those of each reward in a sum; failures: how
    many are missing, by reason."""

    values: list[float]
    parts: dict[str, list[float]]
    failures: Counter[str]


def shared_scores(reward: Reward, answers: Answers, records: Mapping[int, Any], writer: Writer) -> Scores:
    """The rewards of answers by the records of their rows, the same on every process. Raises ZooError."""
    rank, processes = my_place()
    start, stop = (len(answers) * (rank + k) // processes for k in (0, 1))
    mine = answers[start:stop]
    scored, error = Scored([], {}, []), None
    try:
        if leads():
            scored = reward.detailed(
                writer.texts(mine), [records[answer.row] for answer in mine], [answer.ended for answer in mine],
                mine.lengths.tolist(), [answer.episode for answer in mine],
            )  # fmt: skip
    except ZooError as raised:
        # The other processes wait for this one, so it reports its error to them.
        error = raised
    shares = gathered((scored.values, scored.parts, scored.failures, error))
    if error := next((share[3] for share in shares if share[3]), None):
        raise error
    failures: Counter[str] = Counter()
    for share in shares:
        failures.update(share[2])
    return Scores(
        [_number(value) for share in shares for value in share[0]],
        {name: [_number(value) for share in shares for value in share[1][name]] for name in shares[0][1]},
        failures,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class Seen:
    """The answers of a rollout with their rewards."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.texts: list[str] = []
        self.values: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self.failures: Counter[str] = Counter()
        """The number of missing rewards by reason, beginnings of answers included."""
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
        """Leave out answers that others replace. Their failures stay counted."""
        gone = {id(answer) for answer in answers}
        kept = [i for i, answer in enumerate(self.answers) if id(answer) not in gone]
        columns: list[list[Any]] = [self.answers, self.texts, self.values, *self.parts.values()]
        for column in columns:
            column[:] = [column[i] for i in kept]

    def fail(self, asked: int, failures: Mapping[str, int]) -> None:
        """Count the rewards that were asked for, and those that are missing."""
        self.asked += asked
        self.failures.update(failures)

    def metrics(self) -> dict[str, float]:
        if not self.answers:
            return {}
        values = [value for value in self.values if not math.isnan(value)]
        average = mean(values)
        # Tokens that do not count, such as a tool's results, are not the policy's: no length has them.
        lengths = [float(length) for length in Answers(self.answers).lengths]
        metrics = {
            "rollout/reward": average,
            "rollout/reward_std": math.sqrt(mean([(value - average) ** 2 for value in values])),
            "rollout/missing": 1 - len(values) / len(self.values),
            "rollout/length": mean(lengths),
            "rollout/length_max": max(lengths),
            "rollout/cut": mean([float(answer.cut) for answer in self.answers]),
        }
        if ended := [length for answer, length in zip(self.answers, lengths, strict=True) if not answer.cut]:
            metrics["rollout/length_ended"] = mean(ended)
        if not self.rewarded:
            shown = ("rollout/length", "rollout/cut")
            return {name: value for name, value in metrics.items() if name.startswith(shown)}
        if len(self.parts) > 1:
            metrics |= {f"rollout/reward/{name}": mean(column) for name, column in self.parts.items()}
        groups: dict[int | None, set[float]] = {}
        for answer, value in zip(self.answers, self.values, strict=True):
            groups.setdefault(answer.row, set()).update([] if math.isnan(value) else [value])
        # A group without any reward is missing, not flat.
        known = [values for values in groups.values() if values]
        if known and len(groups) < len(self.answers):
            metrics["rollout/flat_groups"] = mean([float(len(values) < 2) for values in known])
        if len(groups) < len(self.answers):
            metrics |= self._right()
        return metrics

    def _right(self) -> dict[str, float]:
        """Share of the prompts by how many of their answers are right, where every reward is 0 or 1."""
        if not {value for value in self.values if not math.isnan(value)} <= {0.0, 1.0}:
            return {}
        answers = Counter(answer.row for answer in self.answers)
        right = Counter(answer.row for answer, value in zip(self.answers, self.values, strict=True) if value == 1.0)
        counts = Counter(right[row] for row in answers)
        return {f"rollout/groups/{k}": counts[k] / len(answers) for k in range(max(answers.values()) + 1)}

    def samples(self, records: Mapping[int, Any], count: int) -> list[dict[str, Any]]:
        """The first answers to `count` prompts, for samples.jsonl."""
        first = {answer.row: i for i, answer in reversed(list(enumerate(self.answers)))}
        return [
            {
                "prompt": records[row]["prompt"],  # type: ignore[index]
                "answer": self.texts[i],
                "score": None if math.isnan(self.values[i]) else self.values[i],
                "length": int(self.answers[i].mask.sum()),
                "cut": self.answers[i].cut,
                **messages_of(self.answers[i]),
            }
            for row, i in sorted(first.items(), key=lambda item: item[1])[:count]
        ]


def messages_of(answer: Answer) -> dict[str, Any]:
    """The turns of an episode, for samples.jsonl."""
    return {} if answer.episode is None else {"messages": answer.episode.messages}


def mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN."""
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


class Unrewarded:
    """Counts rollouts without any reward; the same on every process."""

    def __init__(self) -> None:
        self.count, self.in_a_row = 0, 0
        """Since the run began, and in a row up to now."""

    def look(self, asked: int, scored: int, failures: Counter[str], step: int, say: Callable[[str], None]) -> None:
        """Count the rollout before step + 1. asked, scored: rewards or judgements; failures: why the rest is missing.

        Raises TrainingStopped.
        """
        if scored or not asked:
            self.in_a_row = 0 if scored else self.in_a_row
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
