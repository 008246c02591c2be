"""The numbers of the plots as CSV files beside a page, a file for each plot."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.report.axes import Plot

FOLDER = "report-data"


def named(plots: Iterable[Plot], taken: set[str]) -> list[Plot]:
    """The plots with the names of their files, relative to the page; `taken` holds those that are gone already."""
    found = []
    for plot in plots:
        stem = re.sub(r"[^a-z0-9]+", "-", plot.title.lower().replace("√", "root ")).strip("-")[:60] or "plot"
        name = next(
            f"{stem}{end}.csv" for end in ("", *(f"-{i}" for i in range(2, 1000))) if f"{stem}{end}.csv" not in taken
        )
        taken.add(name)
        found.append(dataclasses.replace(plot, file=f"{FOLDER}/{name}"))
    return found


def write(folder: Path, plots: Sequence[Plot]) -> None:
    """Write the files of named plots into a folder, in the place of all earlier ones."""
    beside = folder / f".tmp-{FOLDER}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for plot in plots:
        with (beside / Path(plot.file).name).open("w", newline="", encoding="utf-8", errors="replace") as stream:
            writer = csv.writer(stream)
            writer.writerow(plot.columns)
            writer.writerows(plot.rows)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    os.replace(beside, folder / FOLDER)
