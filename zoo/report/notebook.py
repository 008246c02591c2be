"""Runs in a notebook: plots of their metrics and a summary, as SVG and HTML of the report's own, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import ZooError, in_words, nearest
from zoo.paths import typed_path, write_text
from zoo.report import pages
from zoo.report.plots.axes import Plot
from zoo.report.plots.lines import curves
from zoo.report.plots.series import Series
from zoo.report.plots.standalone import stand_alone
from zoo.report.run_page import changes
from zoo.runs import Run, find_run
from zoo.training.record.progress import SHOWN

BY_DEFAULT = 2
"""Metrics that are drawn where none is named."""


@dataclass(frozen=True)
class Picture:
    """Plots that a notebook shows by themselves; `save("loss.svg")` writes them to a file."""

    title: str
    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, file: str | Path) -> Path:
        """Write the picture; returns the file's path."""
        path = typed_path(file)
        write_text(path, self.svg)
        return path


@in_words
def plot(runs: Run | str | Path | Sequence[Run | str | Path], *metrics: str, out: str = "runs") -> Picture:
    """The metrics of one or several runs by step: `zoo.plot(["first", "second"], "loss", "val/loss")`.

    runs: a run, its path or its name, or a list of these. A metric has a plot of its own, in which each run is a line;
    without a name, the most telling metrics. Raises ZooError for a run or a metric that is not there.
    """
    several = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    found = [one if isinstance(one, Run) else find_run(str(one), out) for one in several]
    series = {run.typed: Series(run.log_history) for run in found}
    drawn = [drawn for name in metrics or _telling(series) if (drawn := _plot(name, series)) is not None]
    if not drawn:
        names = ", ".join(series)
        raise ZooError(f"{names} has no numbers to draw.", "A run has them from its first logged step on.")
    title = f"{', '.join(plot.title for plot in drawn)} of {', '.join(series)}"
    return Picture(title, stand_alone(drawn, title, columns=min(2, len(drawn))))


def _telling(series: dict[str, Series]) -> list[str]:
    names = dict.fromkeys(name for one in series.values() for name in one.names)
    return [name for metric in SHOWN for name in (metric, f"val/{metric}") if name in names][:BY_DEFAULT]


def _plot(name: str, series: dict[str, Series]) -> Plot | None:
    lines = {run: one.of(name) for run, one in series.items() if name in one.names}
    if not lines:
        known = sorted({name for one in series.values() for name in one.names} - {"step"})
        raise ZooError(f"No run has a metric '{name}'.{nearest(name, known)}", f"There are: {', '.join(known)}.")
    return curves(name, lines)


def html_of(run: Run) -> str:
    """A run as a part of a notebook: what changed, and its most telling curves."""
    try:
        picture = plot(run).svg
    except ZooError:
        picture = ""
    return pages.render("notebook.html", run=run, summary=run.summary, changes=changes(run), picture=picture)
