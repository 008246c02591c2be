"""Guards: each looks at the numbers of an optimizer step before it moves the weights, and may object to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Action = Literal["warn", "skip", "rollback", "stop"]
Runs = Literal["all", "offline", "online", "rewarded"]
ACTIONS: tuple[Action, ...] = ("warn", "skip", "rollback", "stop")
"""What may follow an objection, the mildest first."""


@dataclass(frozen=True)
class GuardSetup:
    """The run that a guard is made for. online: its policy writes the answers it learns from.

    rewarded: it learns from a reward.
    """

    online: bool
    rewarded: bool


class Guard:
    """Subclass this and implement `look`. The first line of the docstring is the guard's description.

    The factory, usually the class itself, is called with a `GuardSetup` and the options in brackets:
    `--guards "name(option=value)"`. Every guard also takes `action` and `patience`, which the core reads.
    """

    action: ClassVar[Action | Literal["off"]] = "off"
    """The action if --guards does not name one; "off": the guard works only where --guards names it."""
    runs: ClassVar[Runs] = "all"
    """The runs that it can watch: all, those on data, those on the policy's own answers, those on a reward."""
    of_rollout: ClassVar[bool] = False
    """Whether it looks at a rollout's numbers: then a skip passes over all steps that the rollout serves."""
    hint: ClassVar[str] = ""
    """What the user can change."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that a resume must restore: numbers, texts, lists and dicts of these."""

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        """The objection to a step as a sentence without its full stop; empty if there is none.

        step: its number, from 1; metrics: its numbers as in metrics.jsonl, with NaN and infinity. `loss` is missing
        if the step has nothing to learn from, and numbers of a rollout are there in the first step after it only.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The state of this guard for a checkpoint."""
        return copy.deepcopy({name: getattr(self, name) for name in self.saved})

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in self.saved:
            setattr(self, name, copy.deepcopy(state[name]))
