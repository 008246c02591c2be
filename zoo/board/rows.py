"""What the list says of each run: its state, how far it is, and its first curves. A run that has ended is read once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.options.strict_yaml import read_some
from zoo.report.follow import Followed, neighbour_means
from zoo.runs import Run

SPARKS = 2
"""Metrics of a run in the list."""
SPARK_POINTS = 60
STAMPED = ("run.yaml", "summary.json", "heartbeat.json", "metrics.jsonl", "report.html")
"""Files that change when a run goes on, or begins again."""


@dataclass(frozen=True)
class Spark:
    """A curve in the list: means of neighbours, and the last value."""

    name: str
    values: tuple[float, ...]
    last: float


@dataclass(frozen=True)
class Row:
    """A run in the list."""

    address: str
    name: str
    state: str
    algo: str
    model: str
    data: str
    step: int
    steps: int
    seconds_left: float | None
    tokens_per_second: float | None
    sparks: tuple[Spark, ...]
    alarms: int
    has_page: bool

    @property
    def share(self) -> float | None:
        """How much of the run is done; None where that is not known."""
        return 1.0 if self.state == "finished" else min(1.0, self.step / self.steps) if self.steps else None


@dataclass
class Rows:
    """The rows of all runs. Several pages may ask at the same time."""

    _live: dict[Path, Followed] = field(default_factory=dict)
    _ended: dict[Path, tuple[Any, Row]] = field(default_factory=dict)
    _states: dict[Path, tuple[Any, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, address: str, run: Run) -> Row | None:
        """The row of a run as it is now; None for one that is gone."""
        with self._lock:
            stamp = _stamp(run.path)
            if run.path in self._ended and self._ended[run.path][0] == stamp:
                return self._ended[run.path][1]
            followed = self._live.pop(run.path, None) or Followed(run)
            try:
                followed.look()
            except OSError:
                return None
            row = _row(address, followed)
            if followed.goes_on:
                self._live[run.path] = followed
            else:
                self._ended[run.path] = (stamp, row)
            return row

    def state(self, run: Run) -> str | None:
        """The state of a run, without its curves; None for one that is gone."""
        with self._lock:
            stamp = _stamp(run.path)
            if run.path in self._states and self._states[run.path][0] == stamp:
                return self._states[run.path][1]
            followed = Followed(run)
            try:
                followed.look_at_state()
            except OSError:
                return None
            if not followed.goes_on:
                self._states[run.path] = (stamp, followed.state)
            return followed.state


def _stamp(path: Path) -> list[tuple[int, int] | None]:
    def facts(name: str) -> tuple[int, int] | None:
        try:
            status = (path / name).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    return [facts(name) for name in STAMPED]


def _row(address: str, followed: Followed) -> Row:
    options, pace = options_of(followed.run), followed.pace
    numbers = list(followed.numbers().items())[:SPARKS]
    return Row(
        address=address, name=followed.run.name, state=followed.state, step=followed.step, steps=followed.steps,
        algo=options["algo"], model=Path(options["model"]).name, data=Path(options["data"]).name,
        seconds_left=pace.get("seconds_left"), tokens_per_second=pace.get("tokens_per_second"),
        sparks=tuple(Spark(name, tuple(neighbour_means(of_it, SPARK_POINTS)), of_it[-1]) for name, of_it in numbers),
        alarms=len(followed.alarms()),
        has_page=(followed.run.path / "report.html").is_file(),
    )  # fmt: skip


def options_of(run: Run) -> dict[str, str]:
    """The algorithm, the model and the data of a run; a question mark for what its file does not say."""
    names = ("algo", "model", "data")
    try:
        said = read_some(run.path / "run.yaml", names)
    except (ZooError, OSError):
        said = {}
    return {name: str(said.get(name) or "?") for name in names}
