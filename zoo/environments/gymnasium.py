"""Environments of the library Gymnasium, in text.

    zoo train --algo NAME --environment "gymnasium(id=FrozenLake-v1, options=(is_slippery=false))"

The policy reads each observation, and writes an action: a name, a number, or JSON. If no action can be read, it is told
so; the turn is gone, and the environment stays as it is.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from zoo.environments import Environment, Message, Turn
from zoo.environments.adaptors import last_json, opening, said, settings, shown
from zoo.errors import ZooError
from zoo.libraries.extras import needs

HEADING = re.compile(r"^\s*##? ", re.MULTILINE)
NAMED = re.compile(r"^\s*-\s*(\d+)\s*[:=]\s*(.+?)\s*$", re.MULTILINE)
COLOURED = re.compile(r"\x1b\[[\d;]*m(.+?)\x1b\[0m", re.DOTALL)
MOST_NUMBERS = 1000
"""Of an observation; more are an image."""


class Gymnasium(Environment):
    """An environment of Gymnasium. Its observations are told as text, and its actions are read from the answers."""

    data = "episodes"

    @classmethod
    def prepare(cls) -> None:
        needs("gymnasium", "gymnasium", "The environment gymnasium")
        import gymnasium  # noqa: F401

    def __init__(self, id: str, actions: str = "", options: str = "", unreadable: float = 0.0, about: bool = True):
        """id: as for gymnasium.make, `module:Name-v0` for one that a module registers.

        actions: names of the actions from number 0 on, `left+down+right+up`; by default those of its documentation;
        options: for gymnasium.make; unreadable: reward of a turn from which no action can be read; about: whether its
        description is told.
        """
        self.prepare()
        import gymnasium

        self.environment = gymnasium.make(id, **{"render_mode": _mode(id), **settings(options)})
        self.title, self.unreadable, self.about = id, unreadable, about
        self.names = _names(self.environment, actions)
        _refuse(self.environment)

    def begin(self, record: Mapping[str, Any], seed: int) -> list[Message]:
        observation, _ = self.environment.reset(seed=seed % 2**32)
        return opening(f"{self._about()}\n\n{self._seen(observation)}")

    def step(self, message: Message) -> Turn:
        try:
            action = self._action(str(message.get("content") or ""))
        except ValueError as error:
            return Turn(said(f"Error: {error}. {self._offer()}"), reward=self.unreadable)
        observation, reward, terminated, truncated, _ = self.environment.step(action)
        return Turn(said(self._seen(observation)), bool(terminated or truncated), float(reward))

    def cut(self, message: Message) -> float:
        # The turns before have their rewards.
        return 0.0

    def close(self) -> None:
        self.environment.close()

    def _about(self) -> str:
        document = inspect.getdoc(type(self.environment.unwrapped)) or ""
        about = HEADING.split(document.partition("## Description")[2] or document)[0].strip() if self.about else ""
        return "\n\n".join(filter(None, (f"Environment: {self.title}", about, self._offer())))

    def _offer(self) -> str:
        if self.names:
            offered = ", ".join(f"{number} ({name})" for number, name in self.names.items())
            return f"Actions: {offered}. Write one."
        return f"Write an action: {self.environment.action_space}."

    def _seen(self, observation: Any) -> str:
        seen = f"Observation: {shown(observation)}"
        if self.environment.render_mode != "ansi":
            return seen
        # The colour of a place says that something is there.
        drawn = COLOURED.sub(r"[\1]", str(self.environment.render()))
        return f"{seen}\n{drawn.strip()}"

    def _action(self, text: str) -> Any:
        """The action that the policy names last. Raises ValueError if there is none."""
        from gymnasium import spaces

        space = self.environment.action_space
        if isinstance(space, spaces.Discrete):
            return self._choice(text)
        if isinstance(space, spaces.Text):
            action: Any = text.strip()
        else:
            import numpy

            try:
                action = numpy.asarray(last_json(text), dtype=space.dtype).reshape(space.shape)
            except (ValueError, TypeError, OverflowError):
                raise ValueError("no list of numbers of this size is in the answer") from None
        if not space.contains(action):
            raise ValueError("this is no action here")
        return action

    def _choice(self, text: str) -> int:
        spelled = _spelled(self.names)
        words = "|".join(re.escape(name) for name in sorted(spelled, key=len, reverse=True))
        found = re.findall(rf"(?<![\w.-])(?:{words})(?!\.?\w|-)", text.lower())
        if not found:
            raise ValueError("no action is named")
        return spelled[found[-1]]


def _mode(id: str) -> str | None:
    """The way of drawing that is text, where the environment has one."""
    import gymnasium

    found = gymnasium.spec(id).entry_point
    made = gymnasium.envs.registration.load_env_creator(found) if isinstance(found, str) else found
    return "ansi" if "ansi" in getattr(made, "metadata", {}).get("render_modes", ()) else None


def _spelled(names: Mapping[int, str]) -> dict[str, int]:
    """Texts that mean an action: its number, its name, and a word that only its name has."""
    words = {number: set(re.findall(r"\w+", name.lower())) for number, name in names.items()}
    found: dict[str, int] = {}
    for number, own in words.items():
        others = set[str]().union(*(other for at, other in words.items() if at != number))
        found |= {word: number for word in own - others if not word.isdigit()}
    return found | {name.lower(): number for number, name in names.items()} | {str(number): number for number in names}


def _names(environment: Any, actions: str) -> dict[int, str]:
    """The names of a finite number of actions: those given, else those of its documentation, else its numbers."""
    from gymnasium import spaces

    space = environment.action_space
    if not isinstance(space, spaces.Discrete):
        if actions:
            raise ZooError(f"Its actions have no names: they are {space}.", "Leave out actions.")
        return {}
    numbers = range(int(space.start), int(space.start + space.n))
    if actions:
        given = [name.strip() for name in actions.split("+")]
        if len(given) != len(numbers):
            raise ZooError(f"{len(given)} names of actions are given, and it has {len(numbers)} actions.")
        return dict(zip(numbers, given, strict=True))
    document = inspect.getdoc(type(environment.unwrapped)) or ""
    listed = HEADING.split(document.partition("## Action Space")[2])[0]
    told = {int(number): name for number, name in NAMED.findall(listed)}
    return {number: told.get(number, str(number)) for number in numbers}


def _refuse(environment: Any) -> None:
    """Raises ZooError for what text cannot carry."""
    import math

    from gymnasium import spaces

    taken = (spaces.Discrete, spaces.Text, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(environment.action_space, taken):
        raise ZooError(f"Its actions cannot be read from text: they are {environment.action_space}.")
    seen = environment.observation_space
    if isinstance(seen, spaces.Box) and math.prod(seen.shape) > MOST_NUMBERS:
        raise ZooError(f"It shows {math.prod(seen.shape):,} numbers, such as an image, and no text can tell them.")
