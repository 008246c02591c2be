"""Errors that users can act on: what happened, where, why, and what to type next."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from zoo.secrets import scrubbed

Given = ParamSpec("Given")
Result = TypeVar("Result")

OUT_OF_TIME = 75
"""The exit status of a run that has used its time: EX_TEMPFAIL of sysexits.h, "try again later"."""
NO_RUN = "; no run was kept"
"""What a run that is stopped before its first step says of itself; rows that it has encoded are kept."""


class ZooError(Exception):
    """A mistake in the input. Shown without a traceback, with exit status 2.

    `message` says what happened, where and why; `hint` what to type next. Neither keeps a secret that it quotes.
    """

    exit_status = 2

    def __init__(self, message: str, hint: str = ""):
        self.message, self.hint = scrubbed(message), scrubbed(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class NoSuchSplit(ZooError):
    """A data source has no split with this name."""


class PluginError(ZooError):
    """A fault of a plugin; the message names the plugin, its version, and what it did."""


class TrainingStopped(ZooError):
    """Training cannot continue (non-finite numbers, a full disk): exit status 1; the run can be resumed."""

    exit_status = 1


class TrainingFailed(ZooError):
    """A run finished without training anything: exit status 1; resuming would not help."""

    exit_status = 1


def in_words(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function for programs, whose `ZooError` shows the caller's line and none of those within.

    A fault of a plugin keeps the traceback of its cause.
    """

    @functools.wraps(function)
    def call(*arguments: Given.args, **options: Given.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except ZooError as error:
            cause = error.__cause__ if isinstance(error, PluginError) else None
            raise error.with_traceback(None) from cause

    return call


def was_asked(error: BaseException) -> bool:
    """Whether a signal or the end of its time has ended a run, and no mistake or fault."""
    return isinstance(error, ZooError) and (error.exit_status > 128 or error.exit_status == OUT_OF_TIME)


def nearest(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest of `choices`, or an empty string."""
    names = nearest_names(name, choices)
    return f" Did you mean '{names[0]}'?" if names else ""


def nearest_names(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` similar names, the nearest first; the same first letter decides between equally near names."""

    def likeness(choice: str) -> float:
        same_start = 0.1 if choice[:1] == name[:1] else 0.0
        return difflib.SequenceMatcher(None, choice, name).ratio() + same_start

    matches = difflib.get_close_matches(name, list(dict.fromkeys(choices)), n=count + 3, cutoff=0.6)
    return sorted(matches, key=likeness, reverse=True)[:count]
