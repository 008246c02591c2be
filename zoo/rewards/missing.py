"""A missing reward, and why it is missing."""

from __future__ import annotations

from typing import Any

LARGEST = 3.4028234663852886e38
"""The largest float32: a larger reward counts as missing, like a reward that is not a number."""


class Missing(str):
    """Why an answer has no reward; reward functions return it instead of a number. None is missing without a reason.

    A missing reward is left out of every mean and counted under its reason; it is never a zero.
    """


class Undecided(Missing):
    """The answer itself is why: it leaves open what it means. Neither the reward nor the data is at fault."""


def from_json(value: Any) -> float | None | Missing:
    """A reward as `as_json` of the worker writes it."""
    if isinstance(value, list):
        return Undecided(value[0])
    return Missing(value) if isinstance(value, str) else value
