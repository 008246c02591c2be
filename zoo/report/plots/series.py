"""The rows of metrics.jsonl as series by name, and the position of a step on other axes: tokens, √KL.

A metric is found by the last part of its name, never by the algorithm that logged it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zoo.report.plots.axes import Point
from zoo.report.plots.lines import STEPS, Place

KL_NAMES = ("val/kl", "kl_k3", "kl", "kl_k1")
"""The metrics for the KL from the reference, best first: held-out answers before training batches, estimates that are
never negative before the others."""


class Series:
    """The metrics of one run."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        # In one pass, because a long run has a hundred thousand rows and twenty metrics.
        self._points: dict[str, list[Point]] = {}
        for row in rows:
            for name, value in row.items():
                points = self._points.setdefault(name, [])
                if _is_number(value):
                    points.append((row["step"], value))
        self.names = list(self._points)

    def of(self, name: str) -> list[Point]:
        """(step, value) of a metric, at the steps where it is a number."""
        return self._points.get(name, [])

    def ending(self, tail: str) -> list[Point]:
        """The first metric of training whose name is `tail` or ends with it after a slash."""
        names = [n for n in self.names if (n == tail or n.endswith(f"/{tail}")) and not n.startswith("val/")]
        return next((points for points in map(self.of, names) if points), [])

    def first_of(self, *names: str) -> tuple[str, list[Point]]:
        """The first of these metrics with at least two values, and its points; ("", []) without any."""
        return next(((n, points) for n in names if len(points := self.of(n)) > 1), ("", []))

    @property
    def kl(self) -> tuple[str, list[Point]]:
        """The metric for the KL from the reference, and its points; ("", []) without one."""
        for name in KL_NAMES:
            points = self.of(name) if name.startswith("val/") else self.ending(name)
            if len({max(0.0, value) for _, value in points}) > 1:
                return name, points
        return "", []

    def root_kl(self) -> Callable[[float], float] | None:
        """A function from a step to √KL, with KL interpolated linearly between measurements; None without a KL."""
        points = self.kl[1]
        if not points:
            return None
        place = between(points)
        return lambda step: math.sqrt(max(0.0, place(step)))

    def axes(self) -> dict[str, tuple[str, Place]]:
        """The possible x axes of these metrics: steps, tokens, √KL."""
        axes: dict[str, tuple[str, Place]] = dict(STEPS)
        if tokens := self.of("num_tokens"):
            count = between([(0.0, 0.0), *tokens])
            axes["tokens"] = ("tokens", lambda line, step: count(step))
        if root := self.root_kl():
            axes["kl"] = (f"√KL ({self.kl[0]})", lambda line, step: root(step))
        return axes


def common_axes(runs: Mapping[str, Series]) -> dict[str, tuple[str, Place]]:
    """The x axes that all runs have in common, for plots with a line for each run."""
    every = {label: run.axes() for label, run in runs.items()}
    first = next(iter(every.values()), {})
    return {
        key: (label, lambda line, step, key=key: every[line][key][1](line, step))  # type: ignore[misc]
        for key, (label, _) in first.items() if all(key in axes for axes in every.values())
    }  # fmt: skip


def between(points: Sequence[Point]) -> Callable[[float], float]:
    """Linear interpolation between points with increasing x, constant outside them."""
    by_x = dict(points)
    xs = sorted(by_x)

    def place(x: float) -> float:
        right = bisect.bisect_left(xs, x)
        if right == len(xs) or right == 0:
            return by_x[xs[min(right, len(xs) - 1)]]
        left, share = xs[right - 1], (x - xs[right - 1]) / (xs[right] - xs[right - 1])
        return by_x[left] + share * (by_x[xs[right]] - by_x[left])

    return place


def start_and_end(points: Sequence[Point]) -> tuple[float, float]:
    """The mean of the first tenth of the values, and that of the last."""
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def mean(points: Sequence[Point]) -> float:
    return sum(value for _, value in points) / len(points)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
