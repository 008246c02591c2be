"""How a comparison of two scores counts: 1 for one that is won, 0 for one that is lost, ½ for a tie.

Scores that differ by rounding are a tie: which of them is higher would change with the row layout and the cut of a
step. Every accuracy here is counted so: of pairs in training, in evaluations and in comparisons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TIE = 1e-4
"""Differences up to this are rounding, in nats: what float32 adds to a log-probability of some hundred tokens."""


def won(margin: float) -> float:
    """1 for a margin above 0, 0 for one below, ½ for one of rounding."""
    return 0.5 if abs(margin) <= TIE else float(margin > 0)


def wins(margins: Tensor, scale: float = 1.0) -> Tensor:
    """The same of each margin, float32 of any shape; NaN where it is missing. scale: what a nat is in it, such as β."""
    margins = margins.detach().float()
    return (margins > 0).float().where(margins.abs() > TIE * scale, 0.5).where(~margins.isnan(), float("nan"))
