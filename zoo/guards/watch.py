"""The guards of a run at work: what they object to in a step, what follows, and how often that was so."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from zoo.errors import PluginError
from zoo.guards import ACTIONS, Action, Guard
from zoo.guards.chosen import Chosen
from zoo.numbers import amount

COUNTED = "guards/"
"""Before the name of a guard and its action, in the row of a step that it objected to."""


class Objection(NamedTuple):
    """What a guard objects to in a step. hint: what the user can change; of_rollout: to the whole rollout."""

    guard: str
    action: Action
    why: str
    hint: str
    of_rollout: bool


def asked_of(guard: Guard, name: str, step: int, metrics: Mapping[str, float]) -> str:
    """What a guard says of a step. Raises PluginError where that is no text."""
    why = guard.look(step, metrics)
    if not isinstance(why, str):
        raise PluginError(
            f"The guard '{name}' returned {type(why).__name__} from look(), not a text.",
            'Return what is wrong with the step, or "".',
        )
    return why


class Guards:
    """All guards of a run; the same on every process, if they get the same numbers.

    most_rollbacks: where a guard asks for one more, the run stops.
    """

    def __init__(self, chosen: Sequence[Chosen] = (), most_rollbacks: int = 0):
        self.chosen, self.most_rollbacks = list(chosen), most_rollbacks
        self.rollbacks = 0
        self.counts: dict[str, dict[str, int]] = {}
        """The number of steps by guard and action."""
        self.last = ("", "")
        """Why the last step was not taken, and what the user can change."""
        self._in_a_row: dict[str, int] = {}
        self._said: list[str] = []

    @property
    def can_roll_back(self) -> bool:
        return any(one.action == "rollback" for one in self.chosen)

    def look(self, step: int, metrics: Mapping[str, float]) -> list[Objection]:
        """The objections to a step, that with the strongest action first. metrics: its numbers before it is taken."""
        seen = MappingProxyType(dict(metrics))
        found = [objection for one in self.chosen if (objection := self._asked(one, step, seen)) is not None]
        found.sort(key=lambda objection: -ACTIONS.index(objection.action))
        for objection in found:
            of_guard = self.counts.setdefault(objection.guard, {})
            of_guard[objection.action] = of_guard.get(objection.action, 0) + 1
        if found and found[0].action != "warn":
            self.last = (found[0].why, found[0].hint)
        self.rollbacks += bool(found) and found[0].action == "rollback"
        return found

    def _asked(self, one: Chosen, step: int, metrics: Mapping[str, float]) -> Objection | None:
        why = asked_of(one.guard, one.name, step, metrics)
        if not why:
            if "loss" in metrics:
                self._in_a_row[one.name] = 0
            return None
        self._in_a_row[one.name] = count = self._in_a_row.get(one.name, 0) + 1
        action = one.action
        if action == "skip" and count >= one.patience:
            action, why = "stop", f"{count} steps in a row: {why}" if count > 1 else why
        if action == "rollback" and self.rollbacks >= self.most_rollbacks:
            action, why = "stop", f"{why}, after {amount(self.rollbacks, 'rollback')}"
        return Objection(one.name, action, why, one.guard.hint, one.guard.of_rollout)

    def is_news(self, objection: Objection) -> bool:
        """Whether to print it: a warning is printed once a run, because nobody reads one that comes with each step."""
        if objection.action != "warn":
            return True
        new = objection.guard not in self._said
        self._said += [objection.guard] if new else []
        return new

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The state that a resume restores."""
        return copy.deepcopy({
            "guards": {one.name: one.guard.state() for one in self.chosen},
            "counts": self.counts, "rollbacks": self.rollbacks, "last": list(self.last), "in_a_row": self._in_a_row,
            "said": self._said,
        })  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.counts, self.rollbacks = copy.deepcopy(state["counts"]), state["rollbacks"]
        self.last, self._said = tuple(state["last"]), list(state["said"])
        self.go_back(state)

    def go_back(self, state: Mapping[str, Any]) -> None:
        """What the guards have seen becomes that of a checkpoint; what they have done stays counted."""
        self._in_a_row = dict(state["in_a_row"])
        for one in self.chosen:
            if one.name in state["guards"]:
                one.guard.load_state(state["guards"][one.name])
