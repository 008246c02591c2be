"""Tables of a page, whose numbers go into a CSV file like those of a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report.plots.axes import Plot


@dataclass(frozen=True)
class Table:
    """Rows and columns; numbers are right-aligned. file: the path of the CSV file relative to the page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    file: str = ""


Panel = Plot | Table
"""The content of a heading."""
