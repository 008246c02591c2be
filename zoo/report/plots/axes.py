"""The parts of every plot: the mapping from values to pixels, and the drawing of grid, ticks and labels.

No plotting library is used: a run ends with a dozen small panels, and these take milliseconds and a few kilobytes, need
no fonts, follow the page's light or dark colours, and show their values under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

Point = tuple[float, float]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
"""From Okabe and Ito, distinguishable for colour-blind readers."""
WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 36
LONGEST_LABEL = 32
"""Maximum characters of the label of the y axis."""
FEWEST_CASES = 5
"""With fewer cases, an interval depends more on its formula than on them, and is left out."""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    raw = (high - low) / max(1, about)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def number(value: float) -> str:
    """`0.125`, `1,200`, `3e-06`: short, for axes and tables."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tick_labels(values: Sequence[float]) -> list[str]:
    """The values, as short as possible while still distinct."""
    labels = [number(value) for value in values]
    for digits in range(5, 16):
        if len(set(labels)) == len(values):
            break
        labels = [f"{value:,.{digits}g}" for value in values]
    return labels


def finite(points: Sequence[tuple[float, float | None]]) -> list[Point]:
    """The points whose coordinates are both finite."""
    return [(x, y) for x, y in points if y is not None and math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class Plot:
    """A finished plot and the numbers that it shows.

    svgs: pictures by x axis, of which a page shows one at a time ("step", "tokens", "kl"), or one under "". names:
    colours by name, for the legend. columns, rows: the table for the CSV file; file: its path relative to the page.
    """

    title: str
    svgs: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    file: str = ""

    @property
    def svg(self) -> str:
        """The first picture."""
        return next(iter(self.svgs.values()))


def colours(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


class Axes:
    """The mapping from values to pixels, and the drawing of grid, ticks and labels around it."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str = "", *,
        left: float = LEFT, height: float = HEIGHT, floor: float | None = None,
    ):  # fmt: skip
        """floor: the lower end of the y axis, for bars."""
        self.left, self.height = left, height
        self.x_low, self.x_high = _widened(xs, 0.02)
        self.y_low, self.y_high = _widened(ys, 0.06)
        if floor is not None:
            self.y_low, self.y_high = floor, max(self.y_high, floor + 1e-9)
        self.x_label, self.y_label = x_label, y_label
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - BOTTOM - TOP)

    def frame(self, y_ticks: bool = True, x_ticks: bool = True) -> None:
        """Grid lines, tick labels and axis labels."""
        bottom = self.height - BOTTOM
        places = ticks(self.x_low, self.x_high) if x_ticks else []
        for at, label in zip(map(self.x, places), tick_labels(places), strict=True):
            self.line(at, TOP, at, bottom, "grid")
            self.text(at, bottom + 14, label, "middle")
        places = ticks(self.y_low, self.y_high) if y_ticks else []
        for at, label in zip(map(self.y, places), tick_labels(places), strict=True):
            self.line(self.left, at, WIDTH - RIGHT, at, "grid")
            self.text(self.left - 5, at + 4, label, "end")
        self.text((self.left + WIDTH - RIGHT) / 2, self.height - 5, self.x_label, "middle")
        if self.y_label:
            middle = (TOP + bottom) / 2
            label = self.y_label if len(self.y_label) <= LONGEST_LABEL else self.y_label[: LONGEST_LABEL - 1] + "…"
            self.parts.append(
                f'<text x="10" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 10 {middle:.0f})">'
                f"{escape(label)}</text>"
            )

    def x_name(self, x: float, text: str) -> None:
        """A name below the x axis, instead of a number."""
        # Names often start alike, so their ends are kept.
        short = text if len(text) < 15 else f"{text[:6]}…{text[-7:]}"
        self.text(self.x(x), self.height - BOTTOM + 14, short, "middle")

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def path(self, points: Sequence[Point], colour: str, style: str) -> None:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{style}" stroke="{colour}" points="{places}"/>')

    def area(self, points: Sequence[Point], colour: str, tip: str) -> None:
        """A filled polygon."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(
            f'<polygon points="{places}" fill="{colour}" fill-opacity="0.45"><title>{escape(tip)}</title></polygon>'
        )

    def dot(self, x: float, y: float, colour: str, tip: str, radius: float = 3.5) -> None:
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{colour}" fill-opacity="0.75">'
            f"<title>{escape(tip)}</title></circle>"
        )

    def whisker(self, x: float, low: float, high: float, colour: str) -> None:
        """An interval, as a thin vertical line."""
        self.parts.append(
            f'<line stroke="{colour}" stroke-width="1.2" x1="{self.x(x):.1f}" y1="{self.y(low):.1f}" '
            f'x2="{self.x(x):.1f}" y2="{self.y(high):.1f}"/>'
        )

    def level_whisker(self, y: float, low: float, high: float, colour: str) -> None:
        """An interval, as a thin horizontal line."""
        self.parts.append(
            f'<line stroke="{colour}" stroke-width="1.2" x1="{self.x(low):.1f}" y1="{self.y(y):.1f}" '
            f'x2="{self.x(high):.1f}" y2="{self.y(y):.1f}"/>'
        )

    def bar(self, x1: float, x2: float, value: float, colour: str, tip: str) -> None:
        """A bar from the lower end of the y axis up to a value."""
        left, right = sorted((self.x(x1), self.x(x2)))
        top = self.y(value)
        self.parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
            f'height="{max(0.0, self.height - BOTTOM - top):.1f}" fill="{colour}" fill-opacity="0.45">'
            f"<title>{escape(tip)}</title></rect>"
        )

    def svg(self, title: str) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def _widened(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - room, high + room
