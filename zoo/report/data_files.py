"""The numbers of plots and tables as CSV files next to a page, one file for each."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from zoo.paths import replacing
from zoo.report.plots.tables import Panel

FOLDER = "report-data"
Shown = TypeVar("Shown", bound=Panel)


def named(panels: Iterable[Shown], taken: set[str]) -> list[Shown]:
    """Plots and tables with the names of their files, relative to the page. taken: names already used."""
    named_panels = []
    for panel in panels:
        stem = re.sub(r"[^a-z0-9]+", "-", panel.title.lower().replace("√", "root ")).strip("-")[:60] or "plot"
        name = next(
            f"{stem}{end}.csv" for end in ("", *(f"-{i}" for i in range(2, 1000))) if f"{stem}{end}.csv" not in taken
        )
        taken.add(name)
        named_panels.append(dataclasses.replace(panel, file=f"{FOLDER}/{name}"))
    return named_panels


def write(folder: Path, panels: Sequence[Panel]) -> None:
    """Write the files of named plots and tables into a folder, replacing all earlier ones."""
    with replacing(folder / FOLDER) as beside:
        for panel in panels:
            with (beside / Path(panel.file).name).open("w", newline="", encoding="utf-8", errors="replace") as stream:
                writer = csv.writer(stream)
                writer.writerow(panel.columns)
                writer.writerows(panel.rows)
