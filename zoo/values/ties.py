"""How a comparison of two scores counts: 1 if it is won, 0 if it is lost, ½ for a tie.

Scores that differ only by rounding are a tie: which one is higher would change with the row layout and with how a step
is split. Every accuracy is counted in this way: of pairs in training, in evaluations and in comparisons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TIE = 1e-4
"""Differences up to this, in nats, are rounding: the error of float32 in a log-probability of some hundred tokens."""


def won(margin: float) -> float:
    """1 for a margin above 0, 0 for a margin below 0, ½ for a margin within rounding."""
    return 0.5 if abs(margin) <= TIE else float(margin > 0)


def wins(margins: Tensor, scale: float = 1.0) -> Tensor:
    """The same for each margin, float32 of any shape; NaN where missing. scale: the size of a nat in it, such as β."""
    margins = margins.detach().float()
    return (margins > 0).float().where(margins.abs() > TIE * scale, 0.5).where(~margins.isnan(), float("nan"))
