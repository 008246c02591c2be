"""From a name in a `--reward` to the reward: a function (here or in its own process), a judge, or a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from zoo.contract.own_process import Failure, Target, target_of
from zoo.contract.source_text import place_of
from zoo.errors import PluginError, ZooError, nearest
from zoo.models.names import NotFound
from zoo.models.start import resolve_start
from zoo.numbers import amount
from zoo.options.expression import Expression, Mention
from zoo.rewards.functions import Function, facts_of, options_for, parameters_of, runs_in_process
from zoo.rewards.isolation import Isolated
from zoo.rewards.judge_options import JUDGED, judged_options
from zoo.rewards.judged import JudgeReward, RubricReward, judged_reward
from zoo.rewards.missing import Missing, from_json
from zoo.rewards.reward_model import RewardModel
from zoo.rewards.spelled import options_of, steps_of, unknown
from zoo.rewards.worker import as_json


class Here:
    """A reward that runs in this process: a trained model, a judge, or a function marked with `in_process`."""

    miscounted = ""

    def __init__(self, function: Any, options: Mapping[str, Any], name: str, say: Callable[[str], None]):
        self.function, self.name = function, name
        self.parameters = parameters_of(function)
        tells = [parameter.name for parameter in self.parameters if parameter.annotation == "Say"]
        self.options = {**options, **dict.fromkeys(tells, say)}

    def __call__(
        self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> list[float | None | Missing]:
        wanted = {name: facts[name] for name in facts_of(self.parameters)}
        returned = self.function(completions, records, **wanted, **self.options)
        try:
            values = [as_json(value) for value in returned]
        except (TypeError, ValueError) as error:
            raise PluginError(f"The reward '{self.name}' gave {returned!r:.80}: {error}.") from error
        if len(values) != len(completions):
            gave = f"{amount(len(values), 'value')} for {amount(len(completions), 'answer')}"
            raise PluginError(f"The reward '{self.name}' gave {gave}.")
        return [from_json(value) for value in values]

    @property
    def details(self) -> Mapping[str, list[float | None]]:
        """What the value of each answer of the last batch consists of, by name."""
        return getattr(self.function, "details", {})

    def close(self) -> None:
        """Nothing to close."""


Part = Here | Isolated


class Names:
    """Finds and loads the rewards that an expression mentions. Raises ZooError that points at the name.

    named: functions by name, as plugins provide them; defaults: values for parameters of these names that are not
    set in brackets.
    """

    def __init__(
        self,
        expression: Expression,
        named: Mapping[str, Function],
        out: str,
        device: torch.device,
        precision: str,
        say: Callable[[str], None],
        timeout: float,
        defaults: Mapping[str, Any],
        base_dtype: str = "auto",
    ):
        self.expression, self.named, self.out, self.say = expression, named, out, say
        self.device, self.precision, self.timeout, self.defaults = device, precision, timeout, defaults
        self.base_dtype = base_dtype

    def find(self, mention: Mention) -> Part:
        if mention.name in self.named:
            return self._function(mention, self.named[mention.name])
        if mention.name in JUDGED:
            return Here(self._judged(mention), {}, mention.label, self.say)
        if ":" in mention.name:
            place, _, attribute = mention.name.rpartition(":")
            if place.split(".")[0] == "zoo" and callable(function := getattr(import_module(place), attribute, None)):
                return self._function(mention, function)
            return self._isolated(mention, Target(place_of(place), attribute))
        return Here(self._model(mention), {}, mention.label, self.say)

    # -- functions -----------------------------------------------------------------------------------------------

    def _function(self, mention: Mention, function: Function) -> Part:
        options = options_of(mention, function, self.expression, self.defaults, self.say)
        if runs_in_process(function):
            return Here(function, options, mention.label, self.say)
        hint = (
            "It holds something that cannot be copied (an open file, a lock, a model). Create that inside the "
            "function; or set function.in_process = True, if it can neither hang nor end the run."
        )
        return self._isolated(mention, target_of(function, f"reward '{mention.name}'", hint))

    def _isolated(self, mention: Mention, target: Target) -> Part:
        try:
            part = Isolated(mention.label, target, self.timeout, self.say)
        except Failure as failure:
            raise self._not_loaded(mention, target, failure) from None
        if part.in_process and not target.pickled:
            # Only now is it certain that this process may import the function.
            part.close()
            return self._function(mention, target.find())
        try:
            part.options = options_for(mention, part.parameters, self.expression, self.defaults)
        except ZooError:
            part.close()
            raise
        return part

    def _not_loaded(self, mention: Mention, target: Target, failure: Failure) -> ZooError:
        place = mention.name.rpartition(":")[0] or mention.name
        if failure.kind == "attribute":
            guess = nearest(target.attribute, failure.names)
            return self.expression.error(f"{place} has no function '{target.attribute}'", mention.at, guess=guess)
        hint = "Give module:function or ./file.py:function." if ":" in mention.name else ""
        return self.expression.error(f"'{place}' cannot be imported: {failure.reason}", mention.at, hint)

    # -- models --------------------------------------------------------------------------------------------------

    def _judged(self, mention: Mention) -> JudgeReward | RubricReward:
        options = judged_options(mention, self.expression)
        settings = {"precision": self.precision, "device": self.device, "out": self.out, "say": self.say}
        try:
            options.check(self.out)
            return judged_reward(options, **settings)
        except ZooError as error:
            raise self.expression.error(error.message.rstrip("."), mention.at, error.hint) from None

    def _model(self, mention: Mention) -> RewardModel:
        steps = steps_of(mention, self.expression, self.out, self.named)
        try:
            source = resolve_start(mention.name, self.out, self.say)
        except NotFound:
            raise unknown(mention, self.expression, self.out, self.named) from None
        try:
            return RewardModel(source, self.device, self.precision, steps, self.base_dtype)
        except ZooError as error:
            raise self.expression.error(error.message.rstrip("."), mention.at, error.hint) from None
