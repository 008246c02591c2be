"""Plots as SVG inside a page: curves, dots with their mean and spread, and a scatter of two measures.

Drawn here and not by a plotting library: a run ends with a dozen small panels, and these cost milliseconds and a few
kilobytes, need no fonts, follow the page's light or dark colours, and tell their values under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
"""After Okabe and Ito: told apart by colour-blind readers too."""
MOST_POINTS = 300
"""Points of one curve; longer ones are thinned out, first and last kept."""
SMOOTHED_FROM = 60
"""A curve of so many points is drawn pale, with its running mean over a twentieth of it on top."""
WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 36


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


def finite(points: Sequence[tuple[float, float | None]]) -> list[Point]:
    """Points whose two coordinates are numbers."""
    return [(x, y) for x, y in points if y is not None and math.isfinite(x) and math.isfinite(y)]


class Axes:
    """The mapping from values to pixels, and the drawing of grid, ticks and labels around it."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str = "", *,
        left: float = LEFT, height: float = HEIGHT,
    ):  # fmt: skip
        self.left, self.height = left, height
        self.x_low, self.x_high = _widened(xs, 0.02)
        self.y_low, self.y_high = _widened(ys, 0.06)
        self.x_label, self.y_label = x_label, y_label
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - BOTTOM - TOP)

    def frame(self, y_ticks: bool = True) -> None:
        """Grid lines, tick labels and axis labels."""
        bottom = self.height - BOTTOM
        for value in ticks(self.x_low, self.x_high):
            at = self.x(value)
            self.line(at, TOP, at, bottom, "grid")
            self.text(at, bottom + 14, number(value), "middle")
        for value in ticks(self.y_low, self.y_high) if y_ticks else []:
            at = self.y(value)
            self.line(self.left, at, WIDTH - RIGHT, at, "grid")
            self.text(self.left - 5, at + 4, number(value), "end")
        self.text((self.left + WIDTH - RIGHT) / 2, self.height - 5, self.x_label, "middle")
        if self.y_label:
            middle = (TOP + bottom) / 2
            self.parts.append(
                f'<text x="10" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 10 {middle:.0f})">'
                f"{escape(self.y_label)}</text>"
            )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def path(self, points: Sequence[Point], colour: str, style: str) -> None:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{style}" stroke="{colour}" points="{places}"/>')

    def dot(self, x: float, y: float, colour: str, tip: str, radius: float = 3.5) -> None:
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{colour}" fill-opacity="0.75">'
            f"<title>{escape(tip)}</title></circle>"
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


def figure(title: str, svg: str, names: Mapping[str, str] | None = None, note: str = "") -> str:
    """A plot with its title, a legend of {name: colour} where there is more than one, and a line of explanation."""
    legend = "".join(f'<span><i style="background:{c}"></i>{escape(n)}</span>' for n, c in (names or {}).items())
    return (
        f"<figure><figcaption><b>{escape(title)}</b>"
        + (f'<span class="legend">{legend}</span>' if len(names or {}) > 1 else "")
        + (f"<small>{escape(note)}</small>" if note else "")
        + f"</figcaption>{svg}</figure>"
    )


def colours(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float | None]]], x_label: str, note: str = "") -> str:
    """Lines over a common x axis; a series of fewer than 20 points shows them. Empty without a finite point."""
    drawn = {name: _thinned(finite(points)) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    together = [point for points in drawn.values() for point in points]
    axes = Axes([x for x, _ in together], [y for _, y in together], x_label)
    axes.frame()
    shades = colours(list(drawn))
    for name, points in drawn.items():
        rough = len(points) >= SMOOTHED_FROM
        axes.path(points, shades[name], "rough" if rough else "curve")
        if rough:
            axes.path(_smoothed(points), shades[name], "curve")
        for x, y in points if len(points) < 20 else [points[0], points[-1]]:
            axes.dot(x, y, shades[name], f"{name}: {number(y)} at {x_label} {number(x)}", 2.5)
    return figure(title, axes.svg(title), shades, note)


def _thinned(points: list[Point]) -> list[Point]:
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]


def _smoothed(points: list[Point]) -> list[Point]:
    half = max(1, len(points) // 40)
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def dots(
    title: str, values: Mapping[str, Sequence[float | None]], x_label: str, *,
    start: float | None = None, note: str = "",
) -> str:  # fmt: skip
    """A row per name with a dot per value and a bar at their mean; `start` is a line across. Empty without values."""
    rows = {name: [x for x, _ in finite([(v, 0.0) for v in given if v is not None])] for name, given in values.items()}
    rows = {name: given for name, given in rows.items() if given}
    if not rows:
        return ""
    shades = colours(list(rows))
    left = min(150, 16 + 7 * max(map(len, rows)))
    height = TOP + BOTTOM + 26 * len(rows)
    everything = [value for given in rows.values() for value in given] + ([start] if start is not None else [])
    axes = Axes(everything, [0.5, -0.5 - (len(rows) - 1)], x_label, left=left, height=height)
    axes.frame(y_ticks=False)
    if start is not None:
        axes.line(axes.x(start), TOP, axes.x(start), height - BOTTOM, "start")
    for i, (name, given) in enumerate(rows.items()):
        mean, at = sum(given) / len(given), axes.y(-i)
        axes.text(left - 8, at + 4, name if len(name) < 20 else name[:19] + "…", "end")
        axes.parts.append(
            f'<line stroke="{shades[name]}" stroke-width="2" x1="{axes.x(mean):.1f}" y1="{at - 8:.1f}" '
            f'x2="{axes.x(mean):.1f}" y2="{at + 8:.1f}"><title>{escape(name)}: mean {number(mean)}</title></line>'
        )
        for value in given:
            axes.dot(value, -i, shades[name], f"{name}: {number(value)}")
    return figure(title, axes.svg(title), note=note)


def scatter(
    title: str, points: Mapping[str, Sequence[tuple[float | None, float | None]]], x_label: str, y_label: str,
    note: str = "",
) -> str:  # fmt: skip
    """Two measures against each other, a colour per name, the name at the mean of its points. Empty without points."""
    drawn = {name: finite([(x, y) for x, y in given if x is not None]) for name, given in points.items()}
    drawn = {name: given for name, given in drawn.items() if given}
    if not drawn:
        return ""
    together = [point for given in drawn.values() for point in given]
    axes = Axes([x for x, _ in together], [y for _, y in together], x_label, y_label)
    axes.frame()
    shades = colours(list(drawn))
    for name, given in drawn.items():
        for x, y in given:
            axes.dot(x, y, shades[name], f"{name}: {x_label} {number(x)}, {y_label} {number(y)}")
        middle = (sum(x for x, _ in given) / len(given), sum(y for _, y in given) / len(given))
        right = axes.x(middle[0]) > WIDTH * 0.75
        axes.text(
            axes.x(middle[0]) + (-6 if right else 6), axes.y(middle[1]) - 6, name[:24], "end" if right else "start"
        )
    return figure(title, axes.svg(title), shades, note)
