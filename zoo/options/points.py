"""Defaults that know the model: the values that sources give at some sizes, and the value for a model between them.

An algorithm writes a list of `Point`s where it would write one value: `{"lr": [Point(135e6, 1e-4, …), Point(7e9, 5e-6,
…)]}`. Full training and adapters have points of their own. Between two sizes the logarithm of the value is
interpolated over the logarithm of the size. Below the smallest and above the largest nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

OPTIMIZER = "AdamW"
"""What a default was found with, unless it says otherwise."""
SAME = 1.1
"""Sizes that differ by no more than this factor are the same: "7 B" is anything from 6.4 to 7.7."""
NEAR = 2.0
"""Beyond this many times the largest size with a source, a note says that there is none."""
NO_SOURCE = "No source has a value"
"""How the note begins where nothing is known about a size."""
LARGE = 1e9
"""From this size on it is told that a learning rate does not depend on it."""
DIGITS = 3
"""Significant digits of an interpolated value."""


@dataclass(frozen=True)
class Point:
    """A value that a source gives for models of one size."""

    weights: float
    """Weights of the model; those that two layers share count once."""
    value: float
    source: str
    """Whose value it is, in words that "for 7 B weights" can follow: "the paper's"."""
    optimizer: str = OPTIMIZER
    """The optimizer that the source trained with."""
    lora: bool = False
    """Whether it is for adapters (`--lora`)."""

    def __str__(self) -> str:
        return f"{self.source} for {count(self.weights)} weights"


@dataclass(frozen=True)
class Choice:
    """The value for a model. reason: a short phrase; notes: sentences with what the reader should know besides."""

    value: float
    reason: str
    notes: tuple[str, ...] = ()


def is_points(value: Any) -> bool:
    """Whether a default is a list of points."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Point) for each in value)


def fault_in(points: Any) -> str:
    """Why a default that is written as points cannot be used; "" if it can be."""
    if isinstance(points, Point):
        return "it is a point, and must be a list of points"
    if not is_points(points):
        wrong = next((each for each in points if not isinstance(each, Point)), None)
        return f"it is a list of points, but {wrong!r} is none" if points else "its list of points is empty"
    if reason := next(filter(None, map(_fault, points)), ""):
        return reason
    for lora in (False, True):
        sizes = [point.weights for point in points if point.lora == lora]
        if any(later <= former for former, later in pairwise(sizes)):
            sizes_found = ", ".join(map(count, sizes))
            return f"its points must be in order of size, one for each size, and are for {sizes_found} weights"
    return ""


def _fault(point: Point) -> str:
    numbers = (point.weights, point.value)
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers) or not all(
        0 < number < math.inf for number in numbers
    ):
        return f"weights and value of {point!r} must be numbers above 0"
    for name in ("source", "optimizer"):
        text = getattr(point, name)
        if not isinstance(text, str) or not text.strip():
            return f"{name} of {point!r} must be words"
    return "" if isinstance(point.lora, bool) else f"lora of {point!r} must be True or False"


def count(weights: float) -> str:
    """`135 M`, `1.5 B`."""
    return f"{weights / 1e9:.3g} B" if weights >= 999.5e6 else f"{weights / 1e6:.3g} M"


def first(points: Sequence[Point]) -> float:
    """The value for the smallest model trained in full: what holds where no model is known."""
    return min(points, key=lambda point: (point.lora, point.weights)).value


def span(points: Sequence[Point]) -> str:
    """`0.0001 (135 M weights) to 5e-06 (7 B)`: full training, for help texts; without points for it, adapters."""
    own = sorted((p for p in points if p.lora == all(each.lora for each in points)), key=lambda point: point.weights)
    low, high = own[0], own[-1]
    if low is high:
        return f"{low.value:g}"
    return f"{low.value:g} ({count(low.weights)} weights) to {high.value:g} ({count(high.weights)})"


def shown(value: Any) -> Any:
    """A default as help texts show it."""
    return span(value) if is_points(value) else value


def known(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults without points: those for the smallest model that a source names."""
    return {name: first(value) if is_points(value) else value for name, value in defaults.items()}


def choose(name: str, points: Sequence[Point], weights: float | None, lora: bool, optimizer: str = OPTIMIZER) -> Choice:
    """The value of the option `name` for a model of so many weights; None where that is not known yet.

    optimizer: that of the run, which is told where the source has another one.
    """
    way = "adapters" if lora else "full training"
    own = sorted((point for point in points if point.lora == lora), key=lambda point: point.weights)
    if not own:
        value, other = first(points), "full training" if lora else "adapters"
        note = f"{NO_SOURCE} of {name} for {way}, so it is that of {other} at any size. Try others."
        return Choice(value, f"that of {other}: no source has one for {way}", (note,))
    if weights is None:
        return Choice(own[0].value, f"{own[0]}, until the model is there and its size known")
    nearest = min(own, key=lambda point: abs(math.log(weights / point.weights)))
    below = [point for point in own if point.weights <= weights]
    above = [point for point in own if point.weights >= weights]
    if not below or not above:
        return _outside(name, nearest, weights, way, optimizer)
    low, high = below[-1], above[0]
    if low.value == high.value or abs(math.log(weights / nearest.weights)) <= math.log(SAME):
        return Choice(nearest.value, str(nearest), _of_optimizers(name, (nearest,), optimizer))
    share = math.log(weights / low.weights) / math.log(high.weights / low.weights)
    value = math.exp((1 - share) * math.log(low.value) + share * math.log(high.value))
    reason = f"between {low.value:g} ({low}) and {high.value:g} ({high})"
    return Choice(float(f"{value:.{DIGITS}g}"), reason, _of_optimizers(name, (low, high), optimizer))


def unscaled(name: str, value: float, weights: float, optimizer: str = OPTIMIZER) -> Choice:
    """A default that is one number; notes tell where the model is large, or the optimizer another one."""
    notes = []
    if weights >= LARGE:
        notes.append(
            f"Nothing says that {name} {value:g} suits {count(weights)} weights. Look what others take for such a "
            f"model, and set --{name.replace('_', '-')}."
        )
    if not is_same(optimizer, OPTIMIZER):
        notes.append(_found_with(name, value, OPTIMIZER, optimizer))
    return Choice(value, "one number for models of any size", tuple(notes))


def _found_with(name: str, value: float, optimizer: str, own: str) -> str:
    """own: the optimizer of the run."""
    return f"{name} {value:g} was found with {optimizer}; this run has {own}. Try others."


def is_same(optimizer: str, other: str) -> bool:
    """Whether a learning rate of one optimizer suits the other: adamw_8bit is AdamW with a smaller state."""
    words, others = set(optimizer.lower().split("_")), set(other.lower().split("_"))
    return words <= others or others <= words


def _outside(name: str, nearest: Point, weights: float, way: str, optimizer: str) -> Choice:
    """The value of the nearest point: nothing is extrapolated."""
    notes = _of_optimizers(name, (nearest,), optimizer)
    if weights > nearest.weights * NEAR:
        note = (
            f"{NO_SOURCE} of {name} for {way} of {count(weights)} weights, so it is that for "
            f"{count(nearest.weights)}. A larger model often needs a smaller one: try --{name.replace('_', '-')}."
        )
        return Choice(nearest.value, f"{nearest}, the largest with a source", (note, *notes))
    small = weights * NEAR < nearest.weights
    return Choice(nearest.value, f"{nearest}{', the smallest with a source' if small else ''}", notes)


def _of_optimizers(name: str, used: Sequence[Point], optimizer: str) -> tuple[str, ...]:
    """A note for each source that trained with another optimizer."""
    own = OPTIMIZER if is_same(optimizer, OPTIMIZER) else optimizer
    return tuple(
        dict.fromkeys(
            _found_with(name, point.value, point.optimizer, own)
            for point in used
            if not is_same(point.optimizer, optimizer)
        )
    )


Weights = Callable[[str, str], float | None]
"""The weights of the model of a name, as far as its files are here; the second argument is the folder of runs."""
