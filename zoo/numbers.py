"""Numbers as a person reads them."""

from __future__ import annotations

WIDEST = 1e6
"""From here on digits before the point say less than a power of ten."""


def decimal(value: float) -> str:
    """`0.412`, and `1.01e+304` instead of 305 digits."""
    return f"{value:.3f}" if abs(value) < WIDEST else f"{value:.3g}"


def signed(value: float) -> str:
    """The same of a change: `+0.412`."""
    return f"{value:+.3f}" if abs(value) < WIDEST else f"{value:+.3g}"
