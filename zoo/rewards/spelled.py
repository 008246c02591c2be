"""Checks the names in a `--reward` before anything is loaded or run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.contract.lent import is_lent, missing
from zoo.contract.source_text import problem_of
from zoo.errors import ZooError, nearest
from zoo.models.names import NotFound, head_in, look_for, refuse_head
from zoo.options.expression import Expression, Mention
from zoo.rewards.functions import Function, options_for, parameters_of
from zoo.rewards.judge_options import JUDGED, judged_options
from zoo.rewards.plugin import bundled
from zoo.runs import find_runs, is_run_name

STEPS = ("min", "product")
"""The ways to combine the probabilities of steps into one number."""


def check_reward(
    text: str, named: Mapping[str, Function], out: str, defaults: Mapping[str, Any], say: Callable[[str], None]
) -> list[str]:
    """The rewards that a text names. Raises ZooError that points at a name that does not exist.

    named, out, defaults, say: as for `zoo.rewards.reward.Reward` and `zoo.rewards.names.Names`.
    """
    expression = Expression(text)
    for mention in expression.mentions:
        _check(mention, expression, {**bundled(), **named}, out, defaults, say)
    return [mention.label for mention in expression.mentions]


def _check(
    mention: Mention, expression: Expression, named: Mapping[str, Function], out: str, defaults: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:  # fmt: skip
    if mention.name in named:
        options_of(mention, named[mention.name], expression, defaults, say)
    elif mention.name in JUDGED:
        options = judged_options(mention, expression)
        with_place(expression, mention, lambda: options.check(out))
    elif is_lent(mention.name):
        raise missing(mention.name)
    elif ":" in mention.name:
        _check_function(mention, expression)
    else:
        steps_of(mention, expression, out, named)
        with_place(expression, mention, lambda: _check_model(mention, expression, out, named))


def with_place(expression: Expression, mention: Mention, check: Any) -> Any:
    """The result of `check`; its ZooError then points at the mention."""
    try:
        return check()
    except ZooError as error:
        if error.message.startswith("Reward, character"):
            raise
        raise expression.error(error.message.rstrip("."), mention.at, error.hint) from None


def options_of(
    mention: Mention, function: Function, expression: Expression, defaults: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The options of a named function in its types; a bundled reward also checks what it needs. Raises ZooError.

    say: takes what the reward warns of.
    """
    options = options_for(mention, parameters_of(function), expression, defaults)
    if getattr(function, "__module__", "").startswith("zoo.rewards."):
        # Called with no answers, a bundled reward checks its options, its packages and the machine.
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with_place(expression, mention, lambda: function([], [], **options))
        for warning in warned:
            say(f"Note: {warning.message}")
    return options


def _check_function(mention: Mention, expression: Expression) -> None:
    """Raises ZooError if the source of `module:function` does not exist, or clearly does not define the function."""
    if problem := problem_of(mention.name, "function"):
        raise expression.error(problem.message, mention.at, problem.hint, problem.guess)


# -- reward models -------------------------------------------------------------------------------------------------


def steps_of(mention: Mention, expression: Expression, out: str, named: Mapping[str, Function]) -> str:
    """How a process reward model combines its steps into one number. Raises ZooError if the name is not a model."""
    if not is_run_name(mention.name, out) and not ("/" in mention.name or Path(mention.name).exists()):
        raise unknown(mention, expression, out, named)
    options = dict(mention.options)
    steps = str(options.pop("steps", "min"))
    if options or steps not in STEPS:
        raise expression.error(f"a reward model has one option, steps, which is {' or '.join(STEPS)}", mention.at)
    return steps


def _check_model(mention: Mention, expression: Expression, out: str, named: Mapping[str, Function]) -> None:
    try:
        source = look_for(mention.name, out).source
    except NotFound:
        raise unknown(mention, expression, out, named) from None
    if source.folder is not None:
        refuse_head(source.name, head_in(source.folder), "scalar")


def unknown(mention: Mention, expression: Expression, out: str, named: Mapping[str, Function]) -> ZooError:
    """The error for an unknown name, with the nearest names."""
    runs = [run.name for run in find_runs(out)]
    rewards = [*JUDGED, *named]
    paths = [str(Path(out) / run) for run in runs]
    hint = f"Rewards: {', '.join(rewards)}; runs in {out}/: {', '.join(runs) or 'none'}; module:function."
    if "-" in mention.name or "/" in mention.name:
        hint += " A minus or a division after a name needs a blank before it."
    guess = nearest(mention.name, [*rewards, *runs, *paths])
    return expression.error(f"there is no reward, run or model '{mention.name}'", mention.at, hint, guess)
