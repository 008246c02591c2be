"""A house of six rooms as a text game: the policy names a direction, and hears in which room it is now.

    hall find attic        north          the prompt: where it begins, and the room to find; its first move
    loft                   west           the game's words, and the next move: there is the attic

Nobody shows the map. The base has read walks of somebody who tries doors at random; rewards teach it the ways.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

from zoo.bundled.laboratory.worlds import World
from zoo.contract.algorithm import Algorithm
from zoo.environments import Environment, Message, Turn
from zoo.errors import ZooError

Record = dict[str, Any]
DOORS = {
    ("attic", "east"): "loft", ("loft", "south"): "hall", ("hall", "west"): "bath", ("hall", "east"): "kitchen",
    ("kitchen", "north"): "study",
}  # fmt: skip
"""Each door in one direction; it opens in the other one too."""
BACK = {"east": "west", "west": "east", "south": "north", "north": "south"}
MAP = {**DOORS, **{(there, BACK[way]): here for (here, way), there in DOORS.items()}}
ROOMS = sorted({room for room, _ in MAP})
WAYS = sorted(BACK)
FIND = "find"
MOVES = 8
"""Moves in a walk; a walk to the farthest room has four."""
EXTRA = 0.1
"""What a move costs that was not needed."""
TEXTS = 4000


@cache
def way(start: str, goal: str) -> tuple[str, ...]:
    """The shortest way between two rooms, as directions."""
    ways: dict[str, tuple[str, ...]] = {start: ()}
    queue = deque([start])
    while goal not in ways:
        here = queue.popleft()
        for direction in WAYS:
            if (there := MAP.get((here, direction))) and there not in ways:
                ways[there] = (*ways[here], direction)
                queue.append(there)
    return ways[goal]


class Rooms(Environment):
    """Says in which room the policy is. The right one is worth 1, less 0.1 for each move that was not needed."""

    data = "world:rooms"

    def begin(self, record: Mapping[str, Any], seed: int) -> None:
        prompt = record["prompt"] if isinstance(record["prompt"], str) else record["prompt"][-1]["content"]
        words: list[str] = prompt.split()
        self.room, self.goal = words[0], words[-1]
        self.needed, self.moves = len(way(self.room, self.goal)), 0

    def step(self, message: Message) -> Turn:
        self.moves += 1
        self.room = MAP.get((self.room, message["content"].strip()), self.room)
        if self.room == self.goal:
            return Turn(done=True, reward=max(0.0, 1.0 - EXTRA * (self.moves - self.needed)))
        return Turn([{"role": "user", "content": self.room}])

    def cut(self, message: Message) -> float:
        return 0.0


def rows(split: str, kind: str, rows: int = 512, seed: int = 0) -> list[Record]:
    """Rows of a kind, of all pairs of rooms in each split. Raises ZooError for an unknown kind."""
    if kind not in ("prompt", "demonstration", "text"):
        raise ZooError(f"world:rooms has no data of kind '{kind}'.", "There are: prompt, demonstration, text.")
    draw = random.Random(f"rooms {seed} {split}")
    pairs = [(start, goal) for start in ROOMS for goal in ROOMS if start != goal]
    return [_row(*draw.choice(pairs), kind) for _ in range(rows)]


def _row(start: str, goal: str, kind: str) -> Record:
    prompt, directions = f"{start} {FIND} {goal}", way(start, goal)
    if kind == "prompt":
        return {"prompt": prompt, "moves": len(directions)}
    turns: list[dict[str, str]] = []
    for direction in directions:
        turns += [{"role": "assistant", "content": direction}]
        start = MAP[start, direction]
        turns += [{"role": "user", "content": start}]
    if kind == "demonstration":
        return {"prompt": prompt, "completion": turns[:-1]}
    return {"text": f"{prompt} {written([turn['content'] for turn in turns[:-1]])}"}


def written(spoken: list[str]) -> str:
    """Moves and rooms in turn, as the chat template writes them."""
    return " <end> ".join(" ".join(spoken[max(0, i - 1) : i + 1]) for i in range(0, len(spoken), 2))


def texts(seed: int) -> list[str]:
    """The base's texts: walks at random, from which nobody learns the way."""
    draw = random.Random(f"walks {seed}")
    return [_walk(draw) for _ in range(TEXTS)]


def _walk(draw: random.Random) -> str:
    room, goal = draw.sample(ROOMS, 2)
    prompt, spoken = f"{room} {FIND} {goal}", []
    for _ in range(MOVES):
        direction = draw.choice(WAYS)
        room = MAP.get((room, direction), room)
        spoken += [direction, room]
        if room == goal:
            break
    return f"{prompt} {written(spoken[:-1])}"


def defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    """The game for an algorithm that writes answers, and its score for every one."""
    score = {"score": f"episodes(environment=rooms, max_turns={MOVES})"} if algorithm.head == "lm" else {}
    if algorithm.online():
        return {
            **score, "environment": "rooms", "max_turns": MOVES, "max_new_tokens": 4 * MOVES, "batch_size": 128,
            "answers_per_prompt": 16, "epochs": 1000, "max_steps": 40, "lr": 3e-3,
        }  # fmt: skip
    return {**score, "batch_size": 64, "epochs": 1000, "max_steps": 300}


WORLD = World(
    (*ROOMS, *WAYS, FIND), rows, texts, training={"steps": 600, "batch": 64, "lr": 3e-3}, defaults=defaults
)  # fmt: skip
