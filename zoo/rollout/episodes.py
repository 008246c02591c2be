"""Episodes: the policy and an environment speak in turns, until one of them ends it or a limit cuts it.

The answer is everything after the prompt. Ids that the policy wrote stay as they came out; what the environment says
is appended as ids of its own, which the mask leaves out. All episodes take a turn, and then all environments answer at
the same time, each in its own process. So neither the time that a tool takes nor the order of the replies changes a
token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from zoo.data.encoding.template import ChatTemplate, extras_of
from zoo.environments import Turn
from zoo.environments.calls import CallReader
from zoo.environments.pool import Episode as Process
from zoo.environments.pool import Failure, Pool
from zoo.errors import ZooError
from zoo.processes import agreed, leads
from zoo.rollout.engine import Engine, Sampling, Turns
from zoo.values.types import Answer, Episode

GOLDEN = 0x9E3779B97F4A7C15
"""Between the seeds of two turns of an episode."""


@dataclass
class _Playing:
    """An episode that goes on. messages: from the prompt on, of which it has `own`; room: for tokens."""

    number: int
    record: Mapping[str, Any]
    seed: int
    start: int
    messages: list[dict[str, Any]]
    room: int
    process: Process | None = None
    own: int = 0
    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    rewards: list[tuple[int, float]] = field(default_factory=list)
    turns: int = 0
    closed: bool = True
    """Whether the last turn has its end-of-turn token."""
    ended: bool = False
    over: bool = False
    failure: str = ""

    def add(self, ids: Sequence[int], logps: Sequence[float] | None) -> None:
        """Tokens of the policy, with their log-probabilities, or of the environment."""
        self.completion += ids
        self.mask += [logps is not None] * len(ids)
        self.logps += [0.0] * len(ids) if logps is None else logps

    def answer(self) -> Answer:
        earned = None if self.failure or not self.rewards else sum(reward for _, reward in self.rewards)
        episode = Episode(self.messages[self.own :], earned, self.rewards, self.failure)
        behaviour = torch.tensor(self.logps, dtype=torch.float32)
        return Answer.of(
            self.prompt, self.completion, self.mask, ended=self.ended, cut=not self.ended and not self.failure,
            behaviour=behaviour, episode=episode,
        )  # fmt: skip


class Player:
    """Plays the episodes of a run. pool: of the environment; max_turns: of the policy in an episode."""

    def __init__(self, pool: Pool, template: ChatTemplate, max_turns: int):
        if max_turns < 1:
            raise ZooError(f"An episode of {max_turns} turns is not possible.", "Set max_turns to at least 1.")
        self.pool, self.template, self.max_turns = pool, template, max_turns
        self.reader = CallReader(template, pool.tools)
        self.tracebacks: list[str] = []
        """Of the environments that raised, until somebody takes them."""

    def play(
        self, engine: Engine, records: Sequence[Mapping[str, Any]], n: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Answer]:  # fmt: skip
        """`n` episodes from each record's prompt, adjacent.

        seeds: of the random numbers of each episode; all episodes of a record meet the environment with the seed of the
        first. max_new_tokens is the limit for the tokens of an episode, the environment's included. Raises ZooError
        for an engine that cannot go on.
        """
        if not hasattr(engine, "episodes"):
            raise ZooError(
                "This engine writes one answer, and cannot go on after what an environment says.",
                "Use another --engine, such as local, or leave out --environment.",
            )
        # Episodes end by their turns and their tokens.
        sampling = dataclasses.replace(sampling, budget=0)
        playing = [
            _Playing(
                i, records[i // n], seeds[i], seeds[i // n * n] % 2**32, _messages(self.template, records[i // n]),
                sampling.max_new_tokens,
            )
            for i in range(n * len(records))
        ]  # fmt: skip
        with engine.episodes(sampling) as take:
            at_once = take.at_once or max(1, len(playing))
            for first in range(0, len(playing), at_once):
                self._wave(playing[first : first + at_once], take)
        return [episode.answer() for episode in playing]

    def close(self) -> None:
        self.pool.close()

    def _wave(self, wave: list[_Playing], take: Turns) -> None:
        """Episodes that are played side by side."""
        try:
            self._begin(wave, take.longest)
            live = wave
            while live:
                numbers = {episode.number: episode for episode in live}
                take(
                    list(numbers),
                    [torch.tensor(episode.prompt + episode.completion) for episode in live],
                    [episode.room - len(episode.completion) for episode in live],
                    [(episode.seed + GOLDEN * episode.turns) % (2**63 - 1) for episode in live],
                    lambda number, answer: self._spoke(numbers[number], answer),  # noqa: B023 (called within)
                )
                self._listen(live)
                live = [episode for episode in live if not episode.over]
        finally:
            for episode in wave:
                if episode.process is not None:
                    episode.process.close()

    def _begin(self, wave: Sequence[_Playing], longest: int | None) -> None:
        for episode in wave if leads() else ():
            episode.process = self.pool.start(episode.record, episode.start)
        for episode, turn in self._replies(wave):
            episode.messages += self.template.harmless(turn.messages)
            episode.prompt = self.template.prompt_ids(episode.messages, **self._extras(episode))
            episode.own = len(episode.messages) - len(turn.messages)
            if longest is not None:
                self._fit(episode, longest)

    def _fit(self, episode: _Playing, longest: int) -> None:
        """Give an episode no more room than the model has; one without any fails, and speaks after its prompt's end."""
        count, wanted = len(episode.prompt), episode.room
        episode.room = min(wanted, longest - count)
        if episode.room < 1:
            why = (
                f"the prompt has {count:,} tokens with what the environment says first, and the model takes "
                f"{longest:,}: shorten it, or use a model that takes more"
            )
            episode.failure = episode.failure or why
            episode.room = min(wanted, longest // 2)
            episode.prompt = episode.prompt[episode.room - longest :]

    def _spoke(self, episode: _Playing, turn: Answer) -> None:
        """The policy has taken its turn: the environment thinks about it while others still speak."""
        ids = turn.completion.tolist()
        episode.add(ids, turn.behaviour.tolist() if turn.behaviour is not None else [0.0] * len(ids))
        episode.closed, episode.turns = ids[-1] in self.template.eos_ids, episode.turns + 1
        text = self.template.tokenizer.decode(ids[: len(ids) - episode.closed], skip_special_tokens=False)
        episode.messages.append(self.reader.read(text))
        episode.ended = turn.ended
        if episode.process is not None and not episode.failure:
            (episode.process.step if turn.ended else episode.process.cut)(episode.messages[-1])

    def _listen(self, live: Sequence[_Playing]) -> None:
        """What the environments say to the last turns; those of episodes without a turn left give their rewards."""
        going = []
        for episode, turn in self._replies(live):
            self._earn(episode, turn.reward)
            episode.over = turn.done or bool(episode.failure) or not episode.ended
            episode.ended = episode.ended and turn.done and not episode.failure
            if not episode.over:
                going.append((episode, [dict(message) for message in turn.messages]))
        cut = [episode for episode, said in going if not self._hear(episode, said)]
        for episode in cut if leads() else ():
            assert episode.process is not None
            episode.process.cut(_last_turn(episode.messages))
        for episode, turn in self._replies(cut):
            self._earn(episode, turn.reward)
            episode.over = True

    def _hear(self, episode: _Playing, said: list[dict[str, Any]]) -> bool:
        """Appends what the environment says; whether the policy has another turn after it."""
        *before, turn = episode.messages
        ids = self.template.following(before, turn, said, **self._extras(episode), ended=episode.closed)
        episode.messages += said
        if episode.turns >= self.max_turns or len(episode.completion) + len(ids) >= episode.room:
            return False
        episode.add(ids, None)
        return True

    def _extras(self, episode: _Playing) -> dict[str, Any]:
        """What the template reads beside the messages: the environment's tools, else those of the row."""
        return extras_of(episode.record) | ({"tools": self.pool.tools} if self.pool.tools else {})

    def _earn(self, episode: _Playing, reward: float | None) -> None:
        if reward is not None:
            episode.rewards.append((len(episode.completion) - 1, reward))

    def _replies(self, episodes: Sequence[_Playing]) -> Iterator[tuple[_Playing, Turn]]:
        """What each environment answers; one that gives no answer does not go on, and its episode has no reward."""
        replies = agreed([self._reply(episode) for episode in episodes] if leads() else None)
        for episode, (turn, failure) in zip(episodes, replies, strict=True):
            episode.failure = episode.failure or failure
            yield episode, turn

    def _reply(self, episode: _Playing) -> tuple[Turn, str]:
        if episode.failure or episode.process is None:
            return Turn(), episode.failure
        try:
            return episode.process.receive(), ""
        except Failure as failure:
            if trace := getattr(failure, "traceback", ""):
                self.tracebacks.append(trace)
            return Turn(), failure.reason


def _messages(template: ChatTemplate, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    prompt = record["prompt"]
    return [dict(turn) for turn in template.turns(prompt, "user")]


def _last_turn(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return next(message for message in reversed(messages) if message["role"] == "assistant")
