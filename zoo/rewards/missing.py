"""A missing reward, and why it is missing."""

from __future__ import annotations

LARGEST = 3.4028234663852886e38
"""The largest float32: a larger reward counts as missing, like a reward that is not a number."""


class Missing(str):
    """Why an answer has no reward; reward functions return it instead of a number. None is missing without a reason.

    A missing reward is left out of every mean and counted under its reason; it is never a zero.
    """
