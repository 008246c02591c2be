"""Rollouts for the checks: made as in a run, with a tiny reward, by one process or by several that take turns."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from zoo.randomness import restore_rng, rng_state, seed_everything
from zoo.rewards.reward import Scored
from zoo.testing.steps import Failed, Stage
from zoo.testing.tiny import tiny_reward
from zoo.training.online.rollouts import Rollouts
from zoo.values.types import Answer, Answers, Batch

NEW_TOKENS = 6
ANSWERS = 12
"""Answers in a rollout, unless there are fewer rows."""
MOST_ANSWERS = 3
"""Answers per prompt: more take time and show nothing new."""
MICRO_TOKENS = 150
"""Small enough that a rollout is scored in several micro-batches."""
Worth = Callable[[Sequence[str], Sequence[Any]], list[float | None]]


class TinyReward:
    """A reward as in a run, without a separate process. Answers without an end get one less."""

    def __init__(self, worth: Worth = tiny_reward, shaped: bool = True):
        self.worth, self.shaped = worth, shaped and worth is tiny_reward

    def detailed(self, texts: Sequence[str], records: Sequence[Any], ended: Sequence[bool], *facts: Any) -> Scored:
        worth = self.worth(texts, records)
        # So that algorithms that penalise answers without an end have the same goal.
        ends = zip(worth, ended, strict=True)
        values = [value if value is None or end else value - 1 for value, end in ends] if self.shaped else worth
        return Scored(values, {"tiny": values}, [])

    def close(self) -> None:
        """Nothing is held."""


class TinyJudge:
    """A judge with the preferences of the tiny reward, so that it is known which answers should gain."""

    def __init__(self, judge: Any, worth: Worth):
        self._judge, self._worth = judge, worth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def rate(self, prompts: Sequence[Any], answers: Sequence[str], **how: Any) -> Tensor:
        """From 1 to 10."""
        return 1 + 9 * self._values(answers)

    def prefer(self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], **how: Any) -> Tensor:
        return (4 * (self._values(a) - self._values(b))).sigmoid()

    def _values(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([math.nan if value is None else value for value in self._worth(texts, [None] * len(texts))])


@dataclass
class Rolled:
    """A rollout: its batch, the roles it used, the algorithm's state after it, the reward of each answer if it asks for
    them, its metrics."""

    batch: Batch
    used: set[str]
    state: dict[str, Any]
    scores: dict[tuple[Any, ...], float]
    metrics: dict[str, float]


def answer_key(answer: Answer) -> tuple[Any, ...]:
    """The identity of an answer: its data row and its tokens."""
    return (answer.row, *answer.completion.tolist())


def roll(stage: Stage, records: Sequence[dict[str, Any]], worth: Worth = tiny_reward, iteration: int = 0) -> Rolled:
    """A rollout by this stage's weights."""
    judged = "judge" in stage.models
    if judged:
        stage.wrap(judge=lambda judge: TinyJudge(judge, worth))
    seen: list[str] = []
    rollouts = Rollouts(
        stage.hook, stage.algorithm, stage.config, stage.models, stage.models.built("policy").writer,
        {"reward": TinyReward(worth, shaped=not judged)}, records, stage.precision, seen.append, lambda: MICRO_TOKENS,  # type: ignore[dict-item]
    )  # fmt: skip
    batch = rollouts(list(records), iteration, 0)
    answered, scores = rollouts._seen, dict[tuple[Any, ...], float]()
    if answered.asked or judged:
        # Else the reward is only shown.
        scores = {answer_key(answer): value for answer, value in zip(answered.answers, answered.values, strict=True)}
    return Rolled(batch, set(stage.models.used), stage.algorithm.state(), scores, rollouts.take_metrics())


def answers_of(batch: Batch) -> list[Answers]:
    """The fields with generated answers, without texts that came with the prompts."""
    fields = [field for field in batch.fields.values() if isinstance(field, Answers)]
    return [field for field in fields if all(answer.behaviour is not None for answer in field)]


class Replayed:
    """A role that repeats its answers to each prompt, whatever the order of the prompts."""

    def __init__(self, policy: Any, known: dict[tuple[Any, ...], list[Answer]]):
        self._policy, self._known = policy, known
        self._asked: dict[Any, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._policy, name, value)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        keys = [self._key(prompt, n, sampling) for prompt in prompts]
        if not all(key in self._known for key in keys):
            written = self._policy.generate(prompts, n, **sampling)
            each = len(written) // len(prompts)
            self._known |= {key: list(written[i * each : (i + 1) * each]) for i, key in enumerate(keys)}
        return Answers([answer for key in keys for answer in self._known[key]])

    def _key(self, prompt: Any, n: int | None, sampling: Mapping[str, Any]) -> tuple[Any, ...]:
        """The prompt, the sampling options, and the number of earlier calls with these."""
        name = prompt["row"] if isinstance(prompt, dict) else repr(prompt)
        asked = (name, n, repr(sorted(sampling.items())))
        self._asked[asked] = self._asked.get(asked, -1) + 1
        return (*asked, self._asked[asked])


# -- several processes -----------------------------------------------------------------------------------------------


class TakingTurns:
    """Replaces `torch.distributed`: threads act as processes, of which one runs at a time until it has to wait.

    Each has its own random state, and continues with it when it is its turn again.
    """

    def __init__(self, processes: int):
        self._processes = processes
        self._place = threading.local()
        self._turn, self._changed = 0, threading.Condition()
        self._said: list[list[Any]] = [[] for _ in range(processes)]
        self._over: set[int] = set()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self._place, "rank")

    def get_rank(self) -> int:
        return int(self._place.rank)

    def get_world_size(self) -> int:
        return self._processes

    def all_gather_object(self, found: list[Any], mine: Any) -> None:
        rank = self._place.rank
        self._said[rank].append(mine)
        number = len(self._said[rank]) - 1
        state = rng_state()
        self._pass_on()
        self._wait(rank)
        restore_rng(state)
        if any(len(said) <= number for said in self._said):
            raise Failed("In a rollout, some processes wait for others that have finished: a run would hang.")
        found[:] = [said[number] for said in self._said]

    def run(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        """The result of each process; raises the first error of any."""
        results: list[Any] = [None] * len(works)
        errors: list[BaseException] = []

        def process(rank: int) -> None:
            self._place.rank = rank
            self._wait(rank)
            try:
                seed_everything(rank)
                results[rank] = works[rank]()
            except BaseException as error:
                errors.append(error)
            self._over.add(rank)
            self._pass_on()

        threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(len(works))]
        with mock.patch("zoo.processes._exchange", lambda: self):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        return results

    def _wait(self, rank: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == rank)

    def _pass_on(self) -> None:
        with self._changed:
            following = [(self._turn + k) % self._processes for k in range(1, self._processes + 1)]
            self._turn = next((rank for rank in following if rank not in self._over), -1)
            self._changed.notify_all()
