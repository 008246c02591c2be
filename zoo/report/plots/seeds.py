"""Plots of one value or line per seed; a seed has the same mark everywhere: ● is the first, ■ the second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from zoo.report.plots.axes import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Axes, Plot, Point, colours, finite, number, ticks

MARKS: Mapping[str, Sequence[Point]] = {
    "●": (),
    "■": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
    "▲": ((0, -4), (4, 3), (-4, 3)),
    "◆": ((0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)),
    "▼": ((0, 4), (4, -3), (-4, -3)),
}
"""The marks as characters in text, and their corners in pixels around the centre; none for a circle."""
ROW, SPREAD = 38, 12
"""Height of a row of `rows` in pixels, and the part of it over which its seeds are spread."""
LEAST_RANGE = 0.01
"""As a share of the largest number: if all values are closer than this, the axis does not magnify their differences."""

Lines = Mapping[str, Sequence[Sequence[tuple[float, float | None]]]]
"""By the name of a line: its points in each seed."""


def key(seeds: Sequence[int]) -> str:
    """`● seed 0   ■ seed 1`: the mark of each seed."""
    return "\u2003".join(f"{list(MARKS)[k % len(MARKS)]} seed {seed}" for k, seed in enumerate(seeds))


def rows(title: str, values: Mapping[str, Sequence[float | None]], x_label: str, note: str = "") -> Plot | None:
    """A row for each name with a mark for each seed, and a vertical line at the mean. None without values."""
    series = {name: [_known(value) for value in by_seed] for name, by_seed in values.items()}
    series = {name: by_seed for name, by_seed in series.items() if any(value is not None for value in by_seed)}
    if not series:
        return None
    height = TOP + BOTTOM + ROW * len(series)
    everything = [value for by_seed in series.values() for value in by_seed if value is not None]
    axes = Axes(_apart(everything), [0, 1], x_label, left=RIGHT + 4, height=height)
    axes.frame(y_ticks=False, x_ticks=False)
    _numbers_below(axes, len(series))
    for k, ((name, by_seed), colour) in enumerate(zip(series.items(), colours(list(series)).values(), strict=True)):
        middle = _middle(k)
        axes.text(axes.left, middle - 14, name)
        numbers = [value for value in by_seed if value is not None]
        mean = axes.x(sum(numbers) / len(numbers))
        axes.parts.append(
            f'<line stroke="{colour}" stroke-width="2" x1="{mean:.1f}" y1="{middle - 9}" x2="{mean:.1f}" '
            f'y2="{middle + 9}"/>'
        )
        for seed, value in enumerate(by_seed):
            if value is not None:
                lower = SPREAD * (seed / (len(by_seed) - 1) - 0.5) if len(by_seed) > 1 else 0.0
                axes.parts.append(mark(axes.x(value), middle + lower, colour, seed))
    table = [(name, seed, value) for name, by_seed in series.items() for seed, value in enumerate(by_seed)]
    return Plot(title, {"": axes.svg(title)}, ["series", "seed", x_label], table, note=note)


def lines(
    title: str, series: Lines, x_label: str, y_label: str, *, places: Mapping[float, str] | None = None,
    levels: Mapping[str, Sequence[float]] | None = None, at: tuple[float, str] | None = None, note: str = "",
) -> Plot | None:  # fmt: skip
    """A line for each seed, in the colour of its name. None without a point.

    If there are more seeds than marks, only the end of a line is marked.

    places: names of the positions on the x axis, if it has no numbers; levels: values by seed, drawn as a horizontal
    line at their mean with their range; at: a vertical line, and its name.
    """
    drawn = {name: [finite(points) for points in of_it] for name, of_it in series.items()}
    drawn = {name: of_it for name, of_it in drawn.items() if any(of_it)}
    points = [point for of_it in drawn.values() for each in of_it for point in each]
    if not points:
        return None
    across = {name: [value for value in numbers if math.isfinite(value)] for name, numbers in (levels or {}).items()}
    across = {name: numbers for name, numbers in across.items() if numbers}
    ys = [y for _, y in points] + [value for numbers in across.values() for value in numbers]
    xs = [x for x, _ in points] + ([at[0]] if at is not None else [])
    axes = Axes(xs, _apart(ys), x_label, y_label)
    axes.frame(x_ticks=places is None)
    for x, text in (places or {}).items():
        axes.line(axes.x(x), TOP, axes.x(x), HEIGHT - BOTTOM, "grid")
        axes.x_name(x, text)
    if at is not None:
        axes.line(axes.x(at[0]), TOP, axes.x(at[0]), HEIGHT - BOTTOM, "start")
        axes.text(axes.x(at[0]), TOP - 3, at[1], "middle")
    shades = colours([*drawn, *across])
    for name, numbers in across.items():
        _level(axes, numbers, shades[name])
    for name, of_it in drawn.items():
        for seed, each in enumerate(of_it):
            axes.path(each, shades[name], "curve")
            marked = each if len(of_it) <= len(MARKS) else each[-1:]
            axes.parts += [mark(axes.x(x), axes.y(y), shades[name], seed) for x, y in marked]
    table = [(name, seed, x, y) for name, of_it in drawn.items() for seed, each in enumerate(of_it) for x, y in each]
    columns = ["series", "seed", x_label, y_label]
    return Plot(title, {"": axes.svg(title)}, columns, table, shades, note)


def mark(x: float, y: float, colour: str, seed: int) -> str:
    """The mark of the seed with this number, centred at a position in pixels."""
    corners = list(MARKS.values())[seed % len(MARKS)]
    style = f'fill="{colour}" fill-opacity=".8" stroke="#fff" stroke-width=".6"'
    if not corners:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" {style}/>'
    places = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in corners)
    return f'<polygon points="{places}" {style}/>'


def _middle(row: int) -> int:
    """The height of the marks of a row; its name is above them."""
    return TOP + ROW * row + 26


def _numbers_below(axes: Axes, count: int) -> None:
    """The numbers of the x axis, and its grid, which spares the names of the rows."""
    for value in ticks(axes.x_low, axes.x_high):
        at = axes.x(value)
        axes.text(at, axes.height - BOTTOM + 14, number(value), "middle")
        for row in range(count):
            axes.line(at, _middle(row) - 10, at, _middle(row) + 10, "grid")


def _level(axes: Axes, values: Sequence[float], colour: str) -> None:
    top, bottom, mean = axes.y(max(values)), axes.y(min(values)), axes.y(sum(values) / len(values))
    axes.parts.append(
        f'<rect x="{axes.left}" y="{top:.1f}" width="{WIDTH - RIGHT - axes.left}" height="{bottom - top:.1f}" '
        f'fill="{colour}" fill-opacity=".12"/><line stroke="{colour}" stroke-width="1.6" stroke-dasharray="5 3" '
        f'x1="{axes.left}" y1="{mean:.1f}" x2="{WIDTH - RIGHT}" y2="{mean:.1f}"/>'
    )


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _apart(values: Sequence[float]) -> list[float]:
    """The values, with two more around them if they are almost equal."""
    low, high, largest = min(values), max(values), max(map(abs, values)) or 1.0
    return [*values, low - 0.1 * largest, high + 0.1 * largest] if high - low < LEAST_RANGE * largest else [*values]
