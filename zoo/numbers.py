"""Numbers as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Callable

WIDEST = 1e6
"""From here on digits before the point say less than a power of ten."""
TOLERANCE = 0.0005
"""Half of the last digit that is written."""


def decimal(value: float) -> str:
    """`0.412`, and `1.01e+304` instead of 305 digits."""
    return f"{value:.3f}" if abs(value) < WIDEST else f"{value:.3g}"


def signed(value: float) -> str:
    """The same of a change: `+0.412`."""
    return f"{value:+.3f}" if abs(value) < WIDEST else f"{value:+.3g}"


def around(
    value: float, low: float, high: float, scale: tuple[float, float], end: Callable[[float], str] = decimal
) -> str:
    """An interval as `± 0.071`, its longer side; as `[0.439, 1.000]` where it keeps to a scale and that side would not.

    scale: its least and its greatest value; end: how the ends of the interval are written.
    """
    side, (least, greatest) = max(high - value, value - low), scale
    leaves = value - side < least - TOLERANCE or value + side > greatest + TOLERANCE
    return f"[{end(low)}, {end(high)}]" if least <= low and high <= greatest and leaves else f"± {decimal(side)}"


def amount(count: int, noun: str, plural: str = "") -> str:
    """`1 row`, `2,000 rows`, `2 processes`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def size(count: int) -> str:
    """Bytes as `12 kB`, `340 MB` or `1.2 GB`."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{round(count / 1e6)} MB" if count >= 1e6 else f"{-(-count // 1000)} kB"


def clock(seconds: float) -> str:
    """`0:07`, `12:40`, `3:00:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_in(text: str) -> float:
    """The seconds of `90s`, `45m`, `3h50m`, `02:00:00` or, as SLURM has it, `1-02:00:00`. Raises ValueError."""
    units = re.fullmatch(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    colons = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    colons = colons or re.fullmatch(r"()(\d+):(\d+):(\d+)", text.strip())
    if not (units or colons):
        raise ValueError(f"{text!r} is no time")
    days, hours, minutes, seconds = (int(part or 0) for part in (units or colons).groups())  # type: ignore[union-attr]
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
