"""One class for every reward: checkers, functions, reward models, and sums of these.

    reward = Reward("0.8*instructions + 0.2*runs/reward-1", named)
    reward.score(["an answer"], [{"prompt": "a question"}])

A missing reward is None: it is left out of means and counted with its reason; it is never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch

from zoo.errors import PluginError, ZooError
from zoo.models.precision import choose_precision
from zoo.options.config import OF_ENVIRONMENT
from zoo.options.expression import Expression, Mention, variance
from zoo.rewards.functions import Function
from zoo.rewards.missing import LARGEST, Missing, Undecided
from zoo.rewards.names import Here, Names
from zoo.rewards.plugin import bundled
from zoo.rewards.reward_model import RewardModel
from zoo.secrets import scrubbed
from zoo.values.types import Episode

HINT = "Give it the data that it reads, or use another reward: docs/rewards.md describes each."
HINTS = {
    OF_ENVIRONMENT: "environment.log in the run folder has each traceback. `zoo check` tries it alone, with "
    "--environment; --environment-timeout gives it more time.",
    "http": "Repair the server, whose answers have this form: docs/rewards.md#reward-servers.",
}
"""What to do about a reward that fails on everything, by its name."""


@dataclass
class Scored:
    """The rewards of B answers. values: B numbers or None; parts: the same for each reward of the expression, and for
    each criterion of a rubric.

    disagreement: with two reward models or more, the variance of their rewards for each answer; else empty. failures:
    why rewards are missing, each reason with its number of answers.
    """

    values: list[float | None]
    parts: dict[str, list[float | None]]
    disagreement: list[float | None]
    failures: dict[str, int] = field(default_factory=dict)


class Reward:
    """A reward from its text (see `zoo.options.expression`).

    named: rewards by name that plugins provide, in addition to the bundled ones; out: the folder of the runs;
    precision: the arithmetic of reward models, as Lightning names it; timeout: seconds for a batch in a function's own
    process; patience: how many consecutive batches may fail entirely; max_new_tokens: the longest answer, for rewards
    that use it; base_dtype: of reward models' matrices. The constructor resolves and loads everything, each model once.
    Raises ZooError that points at an unknown name.
    """

    def __init__(
        self,
        text: str,
        named: Mapping[str, Function],
        out: str = "runs",
        device: torch.device | str = "cpu",
        precision: str = "auto",
        say: Any = print,
        timeout: float = 30.0,
        patience: int = 3,
        max_new_tokens: int | None = None,
        base_dtype: str = "auto",
    ):
        self.expression, self.patience = Expression(text), patience
        device = torch.device(device)
        precision = choose_precision(precision, device.type)[0]
        defaults = {"max_new_tokens": max_new_tokens}
        names = Names(
            self.expression, {**bundled(), **named}, out, device, precision, say, timeout, defaults, base_dtype
        )  # fmt: skip
        self.functions = {mention: names.find(mention) for mention in self.expression.mentions}
        self._failing: dict[Mention, int] = dict.fromkeys(self.functions, 0)

    def score(
        self,
        completions: Sequence[str],
        records: Sequence[Mapping[str, Any]],
        ended: Sequence[bool] | None = None,
        tokens: Sequence[int] | None = None,
        episodes: Sequence[Episode | None] | None = None,
    ) -> list[float | None]:
        """One number for each answer, or None.

        records: for each answer the record of its prompt, with `prompt` and the columns that rewards read; ended:
        whether the answer came to its end, by default all did; tokens: the length of each answer; episodes: of answers
        in an environment. Raises PluginError if a reward fails on every answer of `patience` batches in a row.
        """
        return self.detailed(completions, records, ended, tokens, episodes).values

    def detailed(
        self,
        completions: Sequence[str],
        records: Sequence[Mapping[str, Any]],
        ended: Sequence[bool] | None = None,
        tokens: Sequence[int] | None = None,
        episodes: Sequence[Episode | None] | None = None,
    ) -> Scored:
        """The same, with the values of each part and the reasons for missing rewards."""
        facts = {"ended": ended, "tokens": tokens, **_facts_of(episodes)}
        columns: dict[Mention, list[float | None]] = {}
        details: dict[str, list[float | None]] = {}
        failures: Counter[str] = Counter()
        for mention, part in self.functions.items():
            values = part(completions, records, facts)
            self._watch(mention, values, part.miscounted)
            columns[mention] = [None if isinstance(value, Missing) else value for value in values]
            alone = [other.name for other in self.functions].count(mention.name) == 1
            name = mention.name if alone else mention.label
            details |= {f"{name}/{detail}": column for detail, column in part.details.items()}
            reasons = [value or "gave none" for value in values if value is None or isinstance(value, Missing)]
            failures.update(scrubbed(f"{mention.label}: {reason}") for reason in reasons)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        totals = [_finite(self.expression.value(row)) for row in rows]
        overflowed = [value is None and None not in row.values() for value, row in zip(totals, rows, strict=True)]
        failures.update(["the sum is not a finite number"] * sum(overflowed))
        models = [columns[mention] for mention, part in self.functions.items() if _is_model(part)]
        spread = [_spread(row) for row in zip(*models, strict=True)] if len(models) > 1 else []
        parts = {mention.label: column for mention, column in columns.items()} | details
        return Scored(totals, parts, spread, dict(failures.most_common()))

    @property
    def models(self) -> list[Any]:
        """The networks of its reward models."""
        return [part.function.model for part in self.functions.values() if _is_model(part)]

    def close(self) -> None:
        """End the processes of rewards. They end with this process in any case."""
        for part in self.functions.values():
            part.close()

    def _watch(self, mention: Mention, values: Sequence[float | None | Missing], miscounted: str) -> None:
        """Count the consecutive batches in which a reward failed on every answer, and raise PluginError at `patience`.

        It did not fail on undecided answers: it read them.
        """
        reasons = Counter(
            value for value in values if isinstance(value, Missing) and not isinstance(value, Undecided)
        )  # fmt: skip
        if not values:
            return
        if not miscounted and reasons.total() < len(values):
            self._failing[mention] = 0
            return
        self._failing[mention] += 1
        if self._failing[mention] < self.patience:
            return
        reason = miscounted or next(iter(reasons))
        batches = f"all of {self.patience} batches in a row" if self.patience > 1 else "the whole batch"
        message = f"The reward '{mention.label}' failed on {batches}: {reason}."
        if isinstance(self.functions[mention], Here):
            raise ZooError(message, HINTS.get(mention.name, HINT))
        raise PluginError(
            message,
            "A reward is called with a list of answers and one of their records, and returns as many numbers, or None "
            "for an answer that it cannot score. Repair it or use another; `zoo eval MODEL --reward …` tests it alone.",
        )


def _facts_of(episodes: Sequence[Episode | None] | None) -> dict[str, Any]:
    """What rewards may know of episodes: their messages, and what the environment gave for them."""
    if episodes is None:
        return {"messages": None, "earned": None}
    return {
        "messages": [None if one is None else one.messages for one in episodes],
        "earned": [None if one is None else Missing(one.failure) if one.failure else one.reward for one in episodes],
    }


def _is_model(part: Any) -> TypeGuard[Here]:
    return isinstance(part, Here) and isinstance(part.function, RewardModel)


def _finite(value: float | None) -> float | None:
    """The value, or None if it is not finite or too large for float32."""
    return value if value is not None and abs(value) <= LARGEST else None


def _spread(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return variance(present) if len(present) == len(values) else None
