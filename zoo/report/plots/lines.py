"""SVG plots on a page: curves, stacked parts, paths through two measures, dots with their mean, scatter plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypeVar

from zoo.report.plots.axes import BOTTOM, TOP, WIDTH, Axes, Plot, Point, colours, finite, number

Item = TypeVar("Item")
Points = Sequence[tuple[float, float | None]]
Place = Callable[[str, float], float]
XAxes = Mapping[str, tuple[str, Place]]
"""By name ("step", "tokens", "kl"): its label, and from a line's name and a step to a place on it."""

STEPS: XAxes = {"step": ("step", lambda line, step: step)}
MOST_POINTS = 300
"""Points per curve; longer curves are thinned out, with the first and last point kept."""
MOST_ROWS = 4000
"""Points per curve in its CSV file, thinned out in the same way; what smooths a curve sees no more of them."""
SMOOTHED_FROM = 60
"""A curve with this many points is drawn pale, with its running mean over a twentieth of it on top."""


def curves(title: str, series: Mapping[str, Points], axes: XAxes = STEPS, note: str = "") -> Plot | None:
    """Lines of (step, value) over one or more x axes; lines of fewer than 20 points have dots. None without a point."""
    lines = {name: _thinned(finite(points), MOST_ROWS) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    shades = colours(list(lines))
    drawn = {name: _thinned(points) for name, points in lines.items()}
    svgs = {key: _lines(title, drawn, label, place, shades) for key, (label, place) in axes.items()}
    others = {key: place for key, (_, place) in axes.items() if key != "step"}
    rows = [
        (name, step, *(place(name, step) for place in others.values()), value)
        for name, points in lines.items() for step, value in points
    ]  # fmt: skip
    names = {"tokens": "num_tokens", "kl": "sqrt_kl"}
    columns = ["series", "step", *(names.get(key, key) for key in others), "value"]
    return Plot(title, svgs, columns, rows, shades, note)


def _lines(
    title: str, series: Mapping[str, list[Point]], label: str, place: Place, shades: Mapping[str, str]
) -> str:  # fmt: skip
    placed = {name: [(place(name, step), value) for step, value in points] for name, points in series.items()}
    together = [point for points in placed.values() for point in points]
    axes = Axes([x for x, _ in together], [y for _, y in together], label, title)
    axes.frame()
    for name, points in placed.items():
        rough = len(points) >= SMOOTHED_FROM
        axes.path(points, shades[name], "rough" if rough else "curve")
        if rough:
            axes.path(_smoothed(points), shades[name], "curve")
        for x, y in points if len(points) < 20 else [points[0], points[-1]]:
            axes.dot(x, y, shades[name], f"{name}: {number(y)} at {label} {number(x)}", 2.5)
    return axes.svg(title)


def stacked(title: str, parts: Mapping[str, Points], total: Points, note: str = "") -> Plot | None:
    """The stacked parts of a sum over the steps that all of them have, and their total as a line.

    Positive values are stacked upwards, negative ones downwards. None without a step.
    """
    by_step = {name: dict(finite(points)) for name, points in parts.items()}
    every = sorted(set.intersection(*(set(values) for values in by_step.values()))) if by_step else []
    every, sums = _thinned(every, MOST_ROWS), _thinned(finite(total), MOST_ROWS)
    if not every:
        return None
    lines = {name: _calmed([(step, values[step]) for step in every]) for name, values in by_step.items()}
    whole = _calmed(sums)
    bounds = _stack(lines)
    heights = [y for _, points in bounds for _, low, high in points for y in (low, high)]
    axes = Axes([0.0 + every[0], every[-1]], [*heights, *(y for _, y in whole)], "step", "reward")
    axes.frame()
    shades = colours(list(lines))
    for name, points in bounds:
        outline = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
        axes.area(outline, shades[name], name)
    ink = "#7f7f7f"
    if whole:
        axes.path(whole, ink, "curve")
    rows = [(name, step, values[step]) for name, values in by_step.items() for step in every]
    rows += [("total", step, value) for step, value in sums]
    return Plot(title, {"": axes.svg(title)}, ["series", "step", "value"], rows, {**shades, "total": ink}, note)


def _stack(lines: Mapping[str, list[Point]]) -> list[tuple[str, list[tuple[float, float, float]]]]:
    """Of each part (x, lower bound, upper bound)."""
    stack = []
    above, below = (dict.fromkeys((x for x, _ in next(iter(lines.values()))), 0.0) for _ in range(2))
    for name, points in lines.items():
        bounds = []
        for x, value in points:
            side = above if value >= 0 else below
            start, end = side[x], side[x] + value
            bounds.append((x, min(start, end), max(start, end)))
            side[x] = end
        stack.append((name, bounds))
    return stack


def _calmed(points: list[Point]) -> list[Point]:
    """The points; if there are many, their running mean, thinned out."""
    return _thinned(_smoothed(points) if len(points) >= SMOOTHED_FROM else points)


def _thinned(points: list[Item], most: int = MOST_POINTS) -> list[Item]:
    """So many points at most, evenly, with the first and the last."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def _smoothed(points: list[Point]) -> list[Point]:
    half = max(1, len(points) // 40)
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def paths(
    title: str, lines: Mapping[str, Sequence[tuple[float, float, float]]], x_label: str, *,
    fits: Mapping[str, Sequence[Point]] | None = None, note: str = "",
) -> Plot | None:  # fmt: skip
    """Lines through (x, y, step) in the order of the steps, with a dashed line for the fit to each.

    None without a point.
    """
    kept = {name: [point for point in points if finite([point[:2]])] for name, points in lines.items()}
    kept = {name: _thinned(points, MOST_ROWS) for name, points in kept.items() if points}
    drawn = {name: _thinned(points) for name, points in kept.items()}
    if not drawn:
        return None
    fitted = {name: points for name, points in (fits or {}).items() if name in drawn}
    together = [point[:2] for points in drawn.values() for point in points]
    together += [point for points in fitted.values() for point in points]
    axes = Axes([x for x, _ in together], [y for _, y in together], x_label, title.partition(" against ")[0])
    axes.frame()
    shades = colours(list(drawn))
    for name, points in drawn.items():
        axes.path([point[:2] for point in points], shades[name], "rough" if name in fitted else "curve")
        if name in fitted:
            axes.path(fitted[name], shades[name], "fit")
        for x, y, step in points:
            axes.dot(x, y, shades[name], f"{name}: {number(y)} at {x_label} {number(x)}, step {number(step)}", 3)
    rows = [(name, step, x, y) for name, points in kept.items() for x, y, step in points]
    return Plot(title, {"": axes.svg(title)}, ["series", "step", x_label, "value"], rows, shades, note)


def dots(
    title: str, values: Mapping[str, Sequence[float | None]], x_label: str, *,
    start: float | None = None, note: str = "",
) -> Plot | None:  # fmt: skip
    """A row per name with a dot per value and a bar at the mean; `start` is a vertical line. None without values."""
    rows = {
        name: [x for x, _ in finite([(v, 0.0) for v in numbers if v is not None])] for name, numbers in values.items()
    }
    rows = {name: numbers for name, numbers in rows.items() if numbers}
    if not rows:
        return None
    shades = colours(list(rows))
    left = min(150, 16 + 7 * max(map(len, rows)))
    height = TOP + BOTTOM + 26 * len(rows)
    everything = [value for numbers in rows.values() for value in numbers] + ([start] if start is not None else [])
    axes = Axes(everything, [0.5, -0.5 - (len(rows) - 1)], x_label, left=left, height=height)
    axes.frame(y_ticks=False)
    if start is not None:
        axes.line(axes.x(start), TOP, axes.x(start), height - BOTTOM, "start")
    for i, (name, numbers) in enumerate(rows.items()):
        mean, at = sum(numbers) / len(numbers), axes.y(-i)
        axes.text(left - 8, at + 4, name if len(name) < 20 else name[:19] + "…", "end")
        axes.parts.append(
            f'<line stroke="{shades[name]}" stroke-width="2" x1="{axes.x(mean):.1f}" y1="{at - 8:.1f}" '
            f'x2="{axes.x(mean):.1f}" y2="{at + 8:.1f}"><title>{escape(name)}: mean {number(mean)}</title></line>'
        )
        for value in numbers:
            axes.dot(value, -i, shades[name], f"{name}: {number(value)}")
    table = [(name, value) for name, numbers in rows.items() for value in numbers]
    table += [("start", start)] if start is not None else []
    return Plot(title, {"": axes.svg(title)}, ["series", "value"], table, note=note)


def scatter(
    title: str, points: Mapping[str, Sequence[tuple[float | None, float | None]]], x_label: str, y_label: str,
    note: str = "", labelled: bool = True,
) -> Plot | None:  # fmt: skip
    """Two measures against each other, a colour per name. None without points.

    labelled: whether the name is written at the mean of its points.
    """
    drawn = {name: finite([(x, y) for x, y in places if x is not None]) for name, places in points.items()}
    drawn = {name: places for name, places in drawn.items() if places}
    if not drawn:
        return None
    together = [point for places in drawn.values() for point in places]
    axes = Axes([x for x, _ in together], [y for _, y in together], x_label, y_label)
    axes.frame()
    shades = colours(list(drawn))
    for name, places in drawn.items():
        for x, y in places:
            axes.dot(x, y, shades[name], f"{name}: {x_label} {number(x)}, {y_label} {number(y)}")
        if labelled:
            middle = (sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places))
            right = axes.x(middle[0]) > WIDTH * 0.75
            place = axes.x(middle[0]) + (-6 if right else 6), axes.y(middle[1]) - 6
            axes.text(*place, name[:24], "end" if right else "start")
    rows = [(name, x, y) for name, places in drawn.items() for x, y in places]
    return Plot(title, {"": axes.svg(title)}, ["series", x_label, y_label], rows, shades, note)
