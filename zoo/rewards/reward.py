"""Rewards are one thing to whoever asks for them: checkers, functions, reward models, and sums of these.

    reward = Reward("0.8*instructions + 0.2*runs/reward-1", named)
    reward.score(["an answer"], [{"prompt": "a question"}])

A reward that is missing is None: it is left out of means and counted, and is never a zero.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import PluginError, ZooError, nearest
from zoo.judges.reward import JudgeReward, judge_reward
from zoo.models.loading import NotFound, resolve_model
from zoo.models.precision import choose_precision
from zoo.plugin_files import import_file
from zoo.rewards.expression import Expression, Mention, variance
from zoo.rewards.prose import words
from zoo.rewards.reward_model import STEPS, RewardModel
from zoo.runs import find_run, find_runs, is_run_name

Function = Callable[..., Sequence[float | None]]


def length(completions: Sequence[str], records: Sequence[Any], target: float | None = None) -> list[float | None]:
    """The number of words; with a target 1 at that many words, falling evenly to 0 at none and at twice as many."""
    counts = [len(words(text)) for text in completions]
    return [float(n) if target is None else max(0.0, 1 - abs(n - target) / target) for n in counts]


@dataclass
class Scored:
    """What a reward said of B answers. values: B numbers or None; parts: the same for each reward it is made of.

    disagreement: of two reward models or more, the variance of their rewards for each answer; else empty.
    """

    values: list[float | None]
    parts: dict[str, list[float | None]]
    disagreement: list[float | None]


class Reward:
    """A reward from its text (see `zoo.rewards.expression`).

    named: rewards by name, as plugins give them; out: the folder of the runs; precision: the arithmetic of reward
    models, as Lightning names it. Everything is resolved and loaded when
    it is made, each model once. Raises ZooError that points at the name which is not there.
    """

    def __init__(
        self,
        text: str,
        named: Mapping[str, Function],
        out: str = "runs",
        device: torch.device | str = "cpu",
        precision: str = "auto",
        say: Any = print,
    ):
        self.expression = Expression(text)
        self.named, self.out, self.say = named, out, say
        self.device = torch.device(device)
        self.precision = choose_precision(precision, self.device.type)[0]
        self.functions = {mention: self._resolve(mention) for mention in self.expression.mentions}

    def score(
        self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], ended: Sequence[bool] | None = None
    ) -> list[float | None]:
        """One number for each answer, or None.

        records: for each answer that of its prompt, with `prompt` and whatever a reward reads; ended: whether the
        answer came to its end, all of them by default.
        """
        return self.detailed(completions, records, ended).values

    def detailed(
        self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], ended: Sequence[bool] | None = None
    ) -> Scored:
        """The same with what each reward in it said."""
        given: dict[Mention, list[float | None]] = {}
        for mention, function in self.functions.items():
            more = {"ended": ended} if isinstance(function, RewardModel) else {}
            given[mention] = self._checked(mention, function(completions, records, **more), len(completions))
        rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        values = [_finite(self.expression.value(row)) for row in rows]
        models = [given[mention] for mention, one in self.functions.items() if isinstance(one, RewardModel)]
        spread = [_spread(row) for row in zip(*models, strict=True)] if len(models) > 1 else []
        return Scored(values, {mention.label: column for mention, column in given.items()}, spread)

    def _checked(self, mention: Mention, values: Any, count: int) -> list[float | None]:
        try:
            found = [None if value is None else _finite(float(value)) for value in values]
        except (TypeError, ValueError) as error:
            raise PluginError(f"The reward '{mention.label}' gave {values!r:.80}: {error}.") from error
        if len(found) != count:
            raise PluginError(f"The reward '{mention.label}' gave {len(found)} values for {count} answers.")
        return found

    # -- names ---------------------------------------------------------------------------------------------------

    def _resolve(self, mention: Mention) -> Any:
        name, options = mention.name, dict(mention.options)
        if name in self.named:
            return self._with_options(mention, self.named[name])
        if name == "length":
            if not 0 < float(options.get("target", 1.0)) < math.inf:
                raise self.expression.error("the target must be above 0 words", mention.at)
            return self._with_options(mention, length)
        if name == "judge":
            return self._judge(mention)
        if ":" in name:
            return self._with_options(mention, self._python(mention))
        return self._model(mention)

    def _with_options(self, mention: Mention, function: Function) -> Function:
        options = dict(mention.options)
        takes = list(inspect.signature(function).parameters)[2:]
        for option in options:
            if option not in takes:
                offered = f"It takes {', '.join(takes)}." if takes else "It takes none."
                raise self.expression.error(
                    f"'{mention.name}' has no option {option}", mention.at, offered, nearest(option, takes)
                )
        return functools.partial(function, **options) if options else function

    def _python(self, mention: Mention) -> Function:
        """A function by `module:function` or `./file.py:function`."""
        place, _, attribute = mention.name.rpartition(":")
        try:
            module = import_file(Path(place)) if Path(place).is_file() else importlib.import_module(place)
        except (ImportError, ValueError) as error:
            raise self.expression.error(
                f"'{place}' cannot be imported: {error}", mention.at, "Give module:function or ./file.py:function."
            ) from None
        function = getattr(module, attribute, None)
        if not callable(function):
            guess = nearest(attribute, dir(module))
            raise self.expression.error(f"{place} has no function '{attribute}'", mention.at, guess=guess)
        return function

    def _judge(self, mention: Mention) -> JudgeReward:
        settings = {"precision": self.precision, "device": self.device, "out": self.out, "say": self.say}
        try:
            return judge_reward(dict(mention.options), **settings)
        except ZooError as error:
            raise self.expression.error(error.message.rstrip("."), mention.at, error.hint) from None

    def _model(self, mention: Mention) -> RewardModel:
        name, options = mention.name, dict(mention.options)
        steps = str(options.pop("steps", "min"))
        if options or steps not in STEPS:
            raise self.expression.error(
                f"a reward model has one option, steps, which is {' or '.join(STEPS)}", mention.at
            )
        is_run, is_path = is_run_name(name, self.out), "/" in name or Path(name).exists()
        if not is_run and not is_path:
            raise self._unknown(mention)
        try:
            source = resolve_model(str(find_run(name, self.out).path) if is_run else name, self.say)
        except NotFound:
            raise self._unknown(mention) from None
        try:
            return RewardModel(source, self.device, self.precision, steps)
        except ZooError as error:
            raise self.expression.error(error.message.rstrip("."), mention.at, error.hint) from None

    def _unknown(self, mention: Mention) -> ZooError:
        runs = [run.name for run in find_runs(self.out)]
        rewards = ["length", "judge", *self.named]
        paths = [str(Path(self.out) / run) for run in runs]
        hint = f"Rewards: {', '.join(rewards)}; runs in {self.out}/: {', '.join(runs) or 'none'}; module:function."
        if "-" in mention.name or "/" in mention.name:
            hint += " A minus or a division behind a name needs a blank before it."
        guess = nearest(mention.name, [*rewards, *runs, *paths])
        return self.expression.error(f"there is no reward, run or model '{mention.name}'", mention.at, hint, guess)


def _finite(value: float | None) -> float | None:
    """A number that is none is a missing reward."""
    return value if value is not None and math.isfinite(value) else None


def _spread(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return variance(given) if len(given) == len(values) else None
