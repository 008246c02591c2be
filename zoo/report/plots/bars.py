"""Bars on a page: histograms, shares with their intervals, and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from zoo.evals import share_score
from zoo.report.plots.axes import FEWEST_CASES, Axes, Plot, colours, number, ticks

BINS = 24
"""Approximate number of bars of a histogram."""


def histogram(title: str, values: Mapping[str, Sequence[float]], x_label: str, note: str = "") -> Plot | None:
    """The distribution of values, as shares: bars of equal width, the same for every name. None without values."""
    series = {name: [value for value in numbers if math.isfinite(value)] for name, numbers in values.items()}
    series = {name: numbers for name, numbers in series.items() if numbers}
    if not series:
        return None
    everything = [value for numbers in series.values() for value in numbers]
    edges = _edges(min(everything), max(everything))
    counts = {name: _counts(numbers, edges) for name, numbers in series.items()}
    shares = {name: [count / len(series[name]) for count in heights] for name, heights in counts.items()}
    axes = Axes(edges, [0.0, max(max(heights) for heights in shares.values())], x_label, "share", floor=0.0)
    axes.frame()
    shades = colours(list(series))
    for name, heights in shares.items():
        for low, high, share, count in zip(edges, edges[1:], heights, counts[name], strict=False):
            if count:
                tip = f"{name}: {count} of {len(series[name])} in {_span(low, high)}"
                axes.bar(low, high, share, shades[name], tip)
        mean = sum(series[name]) / len(series[name])
        axes.parts.append(
            f'<line stroke="{shades[name]}" stroke-width="2" x1="{axes.x(mean):.1f}" x2="{axes.x(mean):.1f}" '
            f'y1="{axes.y(axes.y_high):.1f}" y2="{axes.y(0.0):.1f}"/>'
        )
    rows = [
        (name, low, high, count, len(series[name]))
        for name, heights in counts.items() for low, high, count in zip(edges, edges[1:], heights, strict=False)
    ]  # fmt: skip
    note = f"{note} Vertical lines are means.".strip()
    return Plot(title, {"": axes.svg(title)}, ["series", "from", "to", "count", "n"], rows, shades, note)


def _edges(low: float, high: float) -> list[float]:
    """Round numbers around all values, including 0 if it is within them."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        width = abs(low) * 0.1 or 1.0
        return [low - width / 2, low + width / 2]
    inner = ticks(low, high, BINS)
    step = inner[1] - inner[0] if len(inner) > 1 else high - low
    before, after = inner[0] - step, inner[-1] + step
    edges = ([before] if inner[0] > low else []) + inner + ([after] if inner[-1] <= high else [])
    return [round(edge, 12) for edge in edges]


def _counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    width, last = edges[1] - edges[0], len(edges) - 2
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(last, max(0, math.floor((value - edges[0]) / width + 1e-9)))] += 1
    return counts


def _span(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def shares(
    title: str, cases: Mapping[str, tuple[float, int]], x_label: str, note: str = "", chance: float | None = None
) -> Plot | None:
    """A bar per name for (hits, n), with its 95 % Wilson interval; `chance` is a line across. None without cases."""
    scores = {name: share_score(name, hits, n) for name, (hits, n) in cases.items() if n}
    if not scores:
        return None
    axes = Axes([-0.5, len(scores) - 0.5], [0.0, 1.0], x_label, "share", floor=0.0)
    axes.frame(x_ticks=False)
    shade = colours([""])[""]
    for i, (name, score) in enumerate(scores.items()):
        interval = f"95 % interval {score.low:.3f} to {score.high:.3f}, n {score.n}"
        axes.bar(i - 0.4, i + 0.4, score.value, shade, f"{name}: {score.value:.3f}, {interval}")
        if score.n >= FEWEST_CASES:
            axes.whisker(i, score.low, score.high, shade)
        axes.x_name(i, name)
    if chance is not None:
        axes.line(axes.x(-0.5), axes.y(chance), axes.x(len(scores) - 0.5), axes.y(chance), "start")
    rows = [(name, score.value, score.low, score.high, score.n) for name, score in scores.items()]
    note = f"{note} Thin lines are 95 % Wilson intervals, for {FEWEST_CASES} cases or more.".strip()
    return Plot(title, {"": axes.svg(title)}, [x_label, "share", "low", "high", "n"], rows, note=note)


def grouped(title: str, sides: Mapping[str, Mapping[str, float]], x_label: str, note: str = "") -> Plot | None:
    """Shares by name, with the bars of several sides next to each other. None without any."""
    names = list(dict.fromkeys(name for values in sides.values() for name in values))
    if not names:
        return None
    highest = max(value for values in sides.values() for value in values.values())
    axes = Axes([-0.5, len(names) - 0.5], [0.0, highest], x_label, "share", floor=0.0)
    axes.frame(x_ticks=False)
    shades, width = colours(list(sides)), 0.8 / len(sides)
    for k, (side, values) in enumerate(sides.items()):
        for i, name in enumerate(names):
            left = i - 0.4 + k * width
            if name in values:
                axes.bar(left, left + width, values[name], shades[side], f"{side}, {name}: {values[name]:.3f}")
    for i, name in enumerate(names):
        axes.x_name(i, name)
    rows = [(side, name, value) for side, values in sides.items() for name, value in values.items()]
    return Plot(title, {"": axes.svg(title)}, ["series", x_label, "share"], rows, shades, note)


def reliability(title: str, bins: Sequence[tuple[float, float, int]], note: str = "") -> Plot | None:
    """A reliability diagram: (mean confidence, hits, n) of each bin, against the accuracy, and the diagonal."""
    scored = [(confidence, share_score("", hits, n)) for confidence, hits, n in bins if n]
    if not scored:
        return None
    axes = Axes([0.5, 1.0], [0.0, 1.0], "confidence", "accuracy")
    axes.frame()
    axes.line(axes.x(0.5), axes.y(0.5), axes.x(1.0), axes.y(1.0), "start")
    shade = colours([""])[""]
    for confidence, score in scored:
        if score.n >= FEWEST_CASES:
            axes.whisker(confidence, score.low, score.high, shade)
        interval = f"{score.low:.3f} to {score.high:.3f}"
        tip = f"confidence {confidence:.3f}: accuracy {score.value:.3f} ({interval}), n {score.n}"
        axes.dot(confidence, score.value, shade, tip)
    rows = [(confidence, score.value, score.low, score.high, score.n) for confidence, score in scored]
    return Plot(title, {"": axes.svg(title)}, ["confidence", "accuracy", "low", "high", "n"], rows, note=note)
