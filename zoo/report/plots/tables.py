"""Tables of a page whose numbers go into a CSV file, as those of a plot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report.plots.axes import Plot


@dataclass(frozen=True)
class Table:
    """Rows under their columns; numbers stand to the right. file: the place of the CSV file beside the page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    file: str = ""


Panel = Plot | Table
"""What stands under a heading."""
