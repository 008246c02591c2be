"""Plots outside a page: one SVG with its own background, fonts, colours, titles and legends, shown as an image.

The plots of a page take their style from it, and follow its light or dark mode. An image in a README gets no style from
outside, so this one contains all of it, on white, which is readable in either mode.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape

from zoo.report.plots.axes import WIDTH, Plot

STYLE = (
    "<style>text{font:11px Helvetica,Arial,sans-serif;fill:#444}.title{font-weight:bold;font-size:12px;fill:#111}"
    ".grid{stroke:#ddd;stroke-width:.7}.start{stroke:#667;stroke-dasharray:4 3}"
    ".curve,.rough,.fit{fill:none;stroke-width:1.6}.rough{stroke-opacity:.35}.fit{stroke-dasharray:5 3}</style>"
)
MARGIN, GAP, UNDER, LINE = 14, 26, 4, 15
CHARACTERS = 52
"""Characters of a title per line: this many wide letters still fit above a plot."""
LETTER = 6.6
"""Maximum mean width of a legend's letters in pixels; the font is not known."""


def stand_alone(plots: Sequence[Plot], label: str, heading: Sequence[str] = (), columns: int = 2) -> str:
    """The plots in a grid, as the text of one SVG file.

    Each has its wrapped title, its note and the names of its lines above it. label: the description for readers who do
    not see the picture; heading: lines at the top.
    """
    columns = min(columns, len(plots))
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP
    parts = [_text(MARGIN, MARGIN + LINE * (k + 0.7), line) for k, line in enumerate(heading)]
    y = MARGIN + LINE * len(heading) + (LINE if heading else 0)
    for first in range(0, len(plots), columns):
        ends = []
        for k, plot in enumerate(plots[first : first + columns]):
            x, (head, lines) = MARGIN + k * (WIDTH + GAP), _head(plot)
            below = y + LINE * lines + UNDER
            parts.append(f'<g transform="translate({x} {y})">{head}</g>{_placed(plot, x, below)}')
            ends.append(below + _height(plot))
        y = max(ends) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{STYLE}<rect width="{width}" height="{y}" rx="6" fill="#fff"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _head(plot: Plot) -> tuple[str, int]:
    """The text above a plot, and how many lines it takes."""
    lines = textwrap.wrap(plot.title, CHARACTERS, break_on_hyphens=False)
    parts = [_text(0, LINE * (k + 0.7), line, "title") for k, line in enumerate(lines)]
    count = len(lines)
    for line in textwrap.wrap(plot.note, CHARACTERS + 8):
        parts.append(_text(0, LINE * (count + 0.7), line))
        count += 1
    legend, rows = _legend(plot.names, count)
    return "".join(parts) + legend, count + rows


def _legend(names: Mapping[str, str], line: int) -> tuple[str, int]:
    """The names of a plot's curves in their colours, from this line on, and how many lines they take."""
    parts, x, rows = "", 0.0, 0
    for name, colour in names.items():
        needed = LETTER * (len(name) + 4)
        if rows == 0 or x + needed > WIDTH:
            x, rows = 0.0, rows + 1
        parts += f'<text x="{x:.0f}" y="{LINE * (line + rows - 0.3):.1f}" style="fill:{colour}">– {escape(name)}</text>'
        x += needed
    return parts, rows


def _text(x: float, y: float, text: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x:g}" y="{y:.1f}">{escape(text)}</text>'


def _height(plot: Plot) -> int:
    viewbox = re.match(r'<svg viewBox="0 0 \d+ (\d+)"', plot.svg)
    assert viewbox is not None, plot.svg[:80]
    return int(viewbox[1])


def _placed(plot: Plot, x: float, y: float) -> str:
    """The plot within the picture, without the tooltips, which an image does not show."""
    height = _height(plot)
    opening = f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    return re.sub(r"<title>[^<]*</title>", "", re.sub(r"^<svg [^>]*>", opening, plot.svg))
