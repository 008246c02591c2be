"""The learning-rate schedules that come with zoo: the rate of a step after the warmup, as a share of its peak.

Each is a function of the step (from 0, of the whole run), the number of steps, the steps of the warmup, and its
options. The core makes the warmup and the floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Interval


def cosine(step: int, total: int, warmup: int) -> float:
    """Half a cosine from the peak to the floor (arXiv:1608.03983)."""
    return (1 + math.cos(math.pi * _progress(step, warmup, total))) / 2


def linear(step: int, total: int, warmup: int) -> float:
    """A line from the peak to the floor."""
    return 1 - _progress(step, warmup, total)


def constant(step: int, total: int, warmup: int) -> float:
    """The peak until the end."""
    return 1.0


def wsd(step: int, total: int, warmup: int, decay_share: Annotated[float, Interval(gt=0, le=1)] = 0.1) -> float:
    """Warmup, stable, decay: the peak until the last decay_share of the steps, then a line (arXiv:2404.06395).

    MiniCPM itself halves the rate every so many steps.
    """
    return 1 - _progress(step, max(warmup, decay_begin(total, decay_share)), total)


def inverse_sqrt(
    step: int, total: int, warmup: int, timescale: Annotated[float, Interval(gt=0, lt=math.inf)] | None = None
) -> float:
    """1/√(1 + s/timescale), s steps after the warmup (arXiv:1706.03762); timescale: the warmup, or 10,000 without."""
    scale = timescale or warmup or 10_000
    return 1 / math.sqrt((step - warmup) / scale + 1)


def decay_begin(total: int, decay_share: float) -> int:
    """The first step (from 0) of the decay phase, which has at least one step."""
    return max(0, total - max(1, round(decay_share * total)))


def _progress(step: int, begin: int, end: int) -> float:
    """How far a step is on the way from `begin` (0) to `end` (1)."""
    return min(1.0, max(0, step - begin) / max(1, end - begin))


BUNDLED: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "wsd": wsd,
    "inverse_sqrt": inverse_sqrt,
}
