"""A reward that could not be given, and why."""

from __future__ import annotations

LARGEST = 3.4028234663852886e38
"""What float32 can hold: a reward beyond it is missing, as one that is no number is."""


class Missing(str):
    """Why an answer has no reward: what a reward function returns in place of a number. None says it without a reason.

    It is left out of every mean and counted under its reason; it is never a zero.
    """
