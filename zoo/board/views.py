"""The pages of the board. Each says whether it has changed since its last look, and draws itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from zoo.board.places import Group, Places
from zoo.board.rows import Row, Rows, options_of
from zoo.cards import described
from zoo.comparison.finished import compare_runs
from zoo.contract.plugin_files import is_file_name
from zoo.environments import answer_in
from zoo.errors import ZooError
from zoo.numbers import amount
from zoo.report import pages
from zoo.report.comparison_page import runs_content
from zoo.report.follow import Followed, ending
from zoo.report.plots.axes import Plot
from zoo.report.plots.panels import sections
from zoo.report.plots.series import Series
from zoo.report.sections.overoptimisation import plot_frontiers
from zoo.runs import Run
from zoo.training.record.progress import duration

MOST_RUNS = 50
"""Runs in the list, the newest; all are one click away."""
MOST_COMPARED = 8
"""As many as there are colours."""
ANSWERS = 6
STATES = {
    "training": "live", "starting": "live", "finished": "good", "failed": "bad", "dead": "bad", "damaged": "bad",
}  # fmt: skip
"""How a state is coloured; others are pale."""


class View(Protocol):
    """A page that changes. `Gone` is raised by one whose run was removed."""

    title: str

    def look(self) -> Any:
        """Read what is new. What it returns differs from the last time if the page does."""

    def html(self) -> str:
        """The page as of the last look."""


class Gone(Exception):
    """The run or the folder of a page is no longer there."""


def render(template: str, **content: Any) -> str:
    return pages.render(f"board/{template}", duration=duration, spark_line=spark_line, states=STATES, **content)


def frame(view: View, address: str) -> str:
    """A whole page around a view. address: of its events."""
    return render("page.html", title=view.title, content=view.html(), address=address)


class ListView:
    """Runs, comparisons and reproductions, the newest first. every: also the older runs."""

    title = "Runs"

    def __init__(self, places: Places, rows: Rows, every: bool = False):
        self.places, self.rows, self.every = places, rows, every

    def look(self) -> Any:
        runs, groups = self.places.survey()
        shown = runs if self.every else runs[:MOST_RUNS]
        self.shown = _rows(self.rows, shown)
        self.older = len(runs) - len(shown)
        self.groups = [
            (group, group.has_page, _counts([self.rows.state(run) for _, run in group.runs])) for group in groups
        ]
        return self.shown, self.older, [(group.address, *facts) for group, *facts in self.groups]

    def html(self) -> str:
        folders = [str(folder) for folder in self.places.folders.values()]
        return render("list.html", rows=self.shown, older=self.older, groups=self.groups, folders=folders)


class GroupView:
    """The runs of a comparison or of a reproduction."""

    def __init__(self, places: Places, rows: Rows, group: Group):
        self.places, self.rows, self.group = places, rows, group
        self.title = group.path.name

    def look(self) -> Any:
        found = self.places.group(self.group.address)
        if found is None:
            raise Gone
        self.group = found
        self.shown = _rows(self.rows, found.runs)
        return self.shown, found.has_page

    def html(self) -> str:
        return render(
            "group.html", group=self.group, rows=self.shown, counts=_counts([row.state for row in self.shown])
        )


def _rows(rows: Rows, runs: Sequence[tuple[str, Run]]) -> list[Row]:
    """Their rows; those that go on come first."""
    found = [row for address, run in runs if (row := rows.of(address, run))]
    return sorted(found, key=lambda row: STATES.get(row.state) != "live")


def _counts(states: Sequence[str | None]) -> str:
    """`9 runs: 2 training, 7 finished`."""
    counts = Counter(state for state in states if state)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    return amount(len(states), "run") + (f": {said}" if said else "")


class RunView:
    """One run: how far it is, what to look at, curves, and the newest answers."""

    def __init__(self, address: str, run: Run):
        self.address, self.followed, self.title = address, Followed(run), run.name
        self.options = options_of(run)
        self.meaning = _meaning(self.options["algo"])

    def look(self) -> Any:
        followed = self.followed
        try:
            followed.look()
        except OSError:
            raise Gone from None
        self.has_page = (followed.run.path / "report.html").is_file()
        rows = followed.metrics, followed.times, followed.samples
        return followed.state, followed.step, followed.steps, self.has_page, [tail.place for tail in rows]

    def html(self) -> str:
        followed, series = self.followed, Series(self.followed.metrics.rows)
        return render(
            "run.html", address=self.address, followed=followed, options=self.options, pace=followed.pace,
            latest=[(name, values[-1]) for name, values in followed.numbers().items()], has_page=self.has_page,
            plots=self._plots(series), axes={key: label for key, (label, _) in series.axes().items()},
            answers=[_answer(row) for row in followed.samples.rows[: -ANSWERS - 1 : -1]],
            ending="" if followed.goes_on else ending(followed),
        )  # fmt: skip

    def _plots(self, series: Series) -> dict[str, list[Plot]]:
        drawn = sections(series, self.meaning)
        reward = [*plot_frontiers({self.title: series}), *drawn.get("Reward", [])]
        return {**drawn, "Reward": reward} if reward else drawn


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    facts = {name: row.get(name, "") for name in ("eval", "when", "prompt")}
    return {**facts, "score": row.get("score"), "text": answer_in({"answer": "", **row})}


def _meaning(algo: str) -> dict[str, str]:
    """What an installed algorithm says of its metrics. The file of one that is not installed is not run for that."""
    if is_file_name(algo):
        return {}
    try:
        return dict(described(algo)[1].metrics)
    except ZooError:
        return {}


class CompareView:
    """Runs side by side: options that differ, scores, curves."""

    title = "Runs compared"

    def __init__(self, runs: Sequence[tuple[str, Run]]):
        self.runs = runs

    def look(self) -> Any:
        try:
            return [
                [(run.path / name).stat().st_mtime_ns for name in ("run.yaml", "metrics.jsonl")] for _, run in self.runs
            ]
        except OSError:
            raise Gone from None

    def html(self) -> str:
        runs = [run for _, run in self.runs]
        return render("compare.html", **runs_content(compare_runs(runs), runs))


def spark_line(values: Sequence[float], width: int = 120, height: int = 28) -> str:
    """The places of the values on a small picture, as `points` of a polyline; equal values are a line in the middle."""
    low, high = min(values), max(values)
    across = (width - 4) / max(1, len(values) - 1)
    places = [
        (2 + across * i, height / 2 if high <= low else 2 + (height - 4) * (high - value) / (high - low))
        for i, value in enumerate(values)
    ]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
