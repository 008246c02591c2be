"""`zoo runs --follow RUN`: what a run does, in a second terminal, from the files of its folder alone.

A terminal shows one picture that is drawn again every second: the state, the time left, curves, alarms, the newest
answers. A pipe gets lines, as the run itself prints them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from zoo.errors import ZooError
from zoo.report.plots.axes import number
from zoo.report.plots.series import Series
from zoo.report.sections.alarms import alarms
from zoo.runs import Run
from zoo.terminal import Console
from zoo.training.record.heartbeat import ENDED, Beat, read_beat, state_of
from zoo.training.record.progress import PLAIN_EVERY_SECONDS, SHOWN, duration, line_of

EVERY = 1.0
"""Seconds between two looks at the files."""
BEGIN = 20.0
"""Seconds in which a new folder may be without a heartbeat."""
MOST_ROWS = 4000
"""Rows of a long file that are read for the curves, evenly spread; with as many of rollouts, and all validations."""
RECENT = 50
"""Rows of times that the time left is estimated from."""
CURVES = 8
ANSWERS = 2
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-~=+*#"
"""Where the terminal has no Unicode."""


# -- files that grow ---------------------------------------------------------------------------------------------------


class Tail:
    """The rows of a file of JSON lines that grows. A file that was replaced (by a resume) begins again.

    key: what every row must have; others are left out.
    """

    def __init__(self, file: Path, key: str = ""):
        self.file, self.key, self.rows = file, key, list[dict[str, Any]]()
        self._at, self._inode = 0, 0

    @property
    def place(self) -> tuple[int, int]:
        """How far which file was read: another one for new rows."""
        return self._inode, self._at

    def look(self) -> list[dict[str, Any]]:
        """Read what was added since the last look; returns these rows."""
        try:
            with self.file.open("rb") as stream:
                return self._read(stream)
        except OSError:
            return []

    def _read(self, stream: Any) -> list[dict[str, Any]]:
        facts = self.file.stat()
        if facts.st_ino != self._inode or facts.st_size < self._at:
            self.rows, self._at, self._inode = [], 0, facts.st_ino
        stream.seek(self._at)
        # The last line may be half written.
        whole, _, _ = stream.read().rpartition(b"\n")
        self._at += len(whole) + bool(whole)
        new = [row for line in _spread(whole.split(b"\n")) if (row := _row(line)) and (not self.key or self.key in row)]
        self.rows += new
        return new


def _spread(lines: list[bytes]) -> list[bytes]:
    """All lines of validations, and some thousand of the others and of those that begin a rollout."""
    if len(lines) <= MOST_ROWS:
        return lines
    kinds: dict[bytes, list[int]] = {b'"val/': [], b'"rollout/': [], b"": []}
    for place, line in enumerate(lines):
        kinds[next(kind for kind in kinds if kind in line)].append(place)
    kept = set(kinds.pop(b'"val/'))
    for places in kinds.values():
        count = min(MOST_ROWS, len(places))
        kept |= {places[round(i * (len(places) - 1) / max(1, count - 1))] for i in range(count)}
    return [lines[place] for place in sorted(kept)]


def _row(line: bytes) -> dict[str, Any]:
    """The object of a line; empty for one that is damaged, which the run itself refuses."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("step", 0), int) else {}


# -- one look ----------------------------------------------------------------------------------------------------------


@dataclass
class Followed:
    """A run as its files show it."""

    run: Run
    state: str = "starting"
    beat: Beat | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metrics, self.times = (Tail(self.run.path / name, "step") for name in ("metrics.jsonl", "timing.jsonl"))
        self.samples = Tail(self.run.path / "samples.jsonl")

    def look(self) -> list[dict[str, Any]]:
        """Read what is new; returns the new rows of metrics."""
        new = self.metrics.look()
        self.times.look()
        self.samples.look()
        self.look_at_state()
        return new

    def look_at_state(self) -> None:
        """Read the state alone."""
        self.summary = _summary(self.run)
        beat = read_beat(self.run)
        state = state_of(self.summary, beat)
        self.beat = beat or self.beat
        # Between the making of the folder and the first heartbeat there are moments.
        young = time.time() - (self.run.path / "run.yaml").stat().st_mtime < BEGIN
        self.state = "starting" if state == "unfinished" and beat is None and young else state

    @property
    def goes_on(self) -> bool:
        return self.state in ("starting", "training")

    @property
    def step(self) -> int:
        if self.state in (*ENDED, "stopped") and "steps" in self.summary:
            return int(self.summary["steps"])
        last = self.metrics.rows[-1]["step"] if self.metrics.rows else 0
        return max(last, self.beat.step if self.beat else 0)

    @property
    def steps(self) -> int:
        """All steps of the run; 0 where it has not said so yet, or no longer says so."""
        return self.beat.steps if self.beat else 0

    @property
    def pace(self) -> dict[str, float]:
        """`tokens_per_second` and `seconds_left` by the last steps and their rollouts; empty if they are too few."""
        first, *recent = self.times.rows[-RECENT:] or [{}]
        seconds = sum(row.get("seconds/training", 0.0) + row.get("seconds/rollout", 0.0) for row in recent)
        if not seconds or not self.goes_on:
            return {}
        trained = sum(row.get("seconds/training", 0.0) * row.get("speed/training", 0.0) for row in recent)
        pace, made = {"tokens_per_second": trained / seconds}, recent[-1]["step"] - first["step"]
        if self.steps and made > 0:
            pace["seconds_left"] = seconds / made * (self.steps - self.step)
        return pace

    def alarms(self) -> list[str]:
        """What the report would warn of by now."""
        found = alarms(Series(self.metrics.rows))
        skipped = sum(1 for row in self.metrics.rows if row.get("skipped"))
        return [*found, *([f"{skipped} of the steps read here were skipped."] if skipped else [])]

    def numbers(self) -> dict[str, list[float]]:
        """The values of the metrics that are shown, the most important first."""
        series = Series(self.metrics.rows)
        names = [name for name in (*SHOWN, *(f"val/{name}" for name in SHOWN)) if name in series.names]
        return {name: [value for _, value in series.of(name)] for name in names[:CURVES] if series.of(name)}


def _summary(run: Run) -> dict[str, Any]:
    try:
        return run.summary
    except (ValueError, OSError, ZooError):
        return {}


# -- a terminal --------------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """The values as a line of bars, from their least to their largest; means of neighbours where there are more.

    Equal values are a line in the middle.
    """
    means = neighbour_means(values, max(1, width))
    low, high = min(means), max(means)
    if high <= low:
        return bars[len(bars) // 2] * len(means)
    return "".join(bars[min(len(bars) - 1, int((mean - low) / (high - low) * len(bars)))] for mean in means)


def neighbour_means(values: Sequence[float], most: int) -> list[float]:
    """So many values at most, each the mean of neighbours."""
    most = min(most, len(values))
    places = [len(values) * i // most for i in range(most + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(places, places[1:], strict=False)]


def picture(followed: Followed, console: Console) -> Group:
    """What the terminal shows now."""
    parts: list[Any] = [headline(followed)]
    curves = Table(box=None, show_header=False, pad_edge=False)
    bars = PLAIN_BARS if console.options.ascii_only else BARS
    for name, values in followed.numbers().items():
        line = sparkline(values, max(10, console.width - 50), bars)
        curves.add_row(name, Text(line, style="cyan"), f"{number(values[0])} → {number(values[-1])}")
    if curves.row_count:
        parts += ["", curves]
    if found := followed.alarms():
        parts += ["", *(Text(text, style="yellow") for text in found)]
    for sample in followed.samples.rows[-ANSWERS:]:
        parts += ["", *_sample(sample)]
    return Group(*parts)


def headline(followed: Followed) -> Text:
    """Name, state, steps, time left, speed."""
    parts: list[str | tuple[str, str]] = [(followed.run.name, "bold"), "  ", (followed.state, _style(followed.state))]
    if followed.step or followed.steps:
        parts.append(f"  step {followed.step:,}" + (f" of {followed.steps:,}" if followed.steps else ""))
    pace = followed.pace
    parts += [f"  {duration(pace['seconds_left'])} left"] if "seconds_left" in pace else []
    parts += [f"  {pace['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in pace else []
    return Text.assemble(*parts)


def _style(state: str) -> str:
    return {"training": "green", "finished": "green", "dead": "red", "failed": "red"}.get(state, "yellow")


def _sample(row: dict[str, Any]) -> Iterator[Text]:
    """When an answer was written, its score, its prompt and itself, one line each."""
    prompt = row.get("prompt", "")
    asked = prompt if isinstance(prompt, str) else prompt[-1].get("content", "") if prompt else ""
    score = row.get("score")
    yield Text(f"{row.get('when', '')}  score {'–' if score is None else number(float(score))}", style="dim")
    for name, text in (("prompt", asked), ("answer", row.get("answer", ""))):
        yield Text(f"{name}  {' '.join(str(text).split())}", no_wrap=True, overflow="ellipsis")


# -- following ---------------------------------------------------------------------------------------------------------


def follow(run: Run, console: Console) -> int:
    """Show the run until it ends, or ctrl-C; returns 0, or 1 for a run that has ended without being finished."""
    followed = Followed(run)
    try:
        (_draw if console.is_terminal and not console.is_dumb_terminal else _print)(followed, console)
    except KeyboardInterrupt:
        return 0
    console.say(ending(followed))
    return 0 if followed.state == "finished" else 1


def ending(followed: Followed) -> str:
    """How it ended, and what to type next."""
    run, then = followed.run, f"zoo resume {followed.run.typed}"
    steps = f"after step {followed.step:,}" + (f" of {followed.steps:,}" if followed.steps else "")
    if followed.state == "finished":
        return f"{run.name} is finished {steps}. Its scores: zoo runs {run.typed}"
    if followed.state == "failed":
        reason = " ".join(str(followed.summary[name]) for name in ("reason", "hint") if name in followed.summary)
        return f"{run.name} has failed {steps}. {reason}"
    if followed.state == "dead" and followed.beat is not None:
        last = f"Its last heartbeat was {duration(followed.beat.age)} ago, from process {followed.beat.pid}"
        return f"{run.name} is dead {steps}: it was killed. {last} on {followed.beat.host}. Continue with: {then}"
    word = f"has stopped {steps}" if followed.state == "stopped" else "is not running, and is not finished"
    return f"{run.name} {word}. Continue with: {then}"


def _draw(followed: Followed, console: Console) -> None:
    from rich.live import Live

    followed.look()
    with Live(picture(followed, console), console=console, auto_refresh=False) as live:
        while followed.goes_on:
            time.sleep(EVERY)
            followed.look()
            live.update(picture(followed, console), refresh=True)


def _print(followed: Followed, console: Console) -> None:
    """A line for each state, validation and alarm, and for the steps one now and then."""
    said: set[str] = set()
    state, printed = "", 0.0
    while True:
        new = followed.look()
        if followed.state != state:
            state = followed.state
            console.say(headline(followed).plain)
        for text in _lines(followed, new, due=time.monotonic() - printed > PLAIN_EVERY_SECONDS):
            printed = time.monotonic()
            console.say(text)
        for alarm in followed.alarms() if new else ():
            # The same alarm comes again with other numbers.
            if alarm[:20] not in said:
                said.add(alarm[:20])
                console.say(f"Alarm: {alarm}")
        if not followed.goes_on:
            return
        time.sleep(EVERY)


def _lines(followed: Followed, new: Sequence[dict[str, Any]], due: bool) -> Iterator[str]:
    """The last validation of the new rows, and their last step where a line is due."""
    held_out = [row for row in new if any(name.startswith("val/") for name in row)]
    trained = [row for row in new if "loss" in row]
    for rows in (held_out[-1:], trained[-1:] if due else []):
        for row in rows:
            yield line_of(row["step"], followed.steps, row, followed.pace)
