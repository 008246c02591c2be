"""Progress of a run: one live line in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.control import Control
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import ControlType
from rich.text import Text

from zoo.terminal import Console

SHOWN = (
    "loss", "rollout/reward", "rewards/accuracies", "rewards/margins", "accuracy", "mean_token_accuracy", "reward",
    "grade", "gold", "kl",
)  # fmt: skip
"""Metrics that the progress line shows, where a run has them."""
PLAIN_EVERY_SECONDS = 10.0
NARROW = 100
"""Columns below which the bar would leave no room for the numbers."""


def short(values: Mapping[str, float], room: int | None = None) -> str:
    """`loss 1.234  val/loss 1.198`, at most five numbers, and no more than there is room for."""
    names = [name for name in values if name.removeprefix("val/") in SHOWN and isinstance(values[name], int | float)]
    shown = [f"{name} {values[name]:.4g}" for name in names[:5]]
    while room is not None and shown and len("  ".join(shown)) > room:
        shown.pop()
    return "  ".join(shown)


def line_of(step: int, total: int, values: Mapping[str, float], pace: Mapping[str, float]) -> str:
    """`step 40/100  2m13s, 3m20s left  3,289 tokens/s  loss 1.234`; what is not known is left out.

    total: 0 where it is not known; pace: what `Pace.facts` gives.
    """
    parts = [f"step {step}/{total}" if total else f"step {step}", pace_of(pace), short(values)]
    return "  ".join(filter(None, parts))


def pace_of(pace: Mapping[str, Any]) -> str:
    """`2m13s, 3m20s left  3,289 tokens/s`, of what is known."""
    took = [duration(pace["seconds"])] if "seconds" in pace else []
    left = [f"{duration(pace['seconds_left'])} left"] if "seconds_left" in pace else []
    speed = f"{pace['tokens_per_second']:,.0f} tokens/s" if pace.get("tokens_per_second") else ""
    return "  ".join(filter(None, (", ".join([*took, *left]), speed)))


def duration(seconds: float) -> str:
    """`12s`, `3m20s`, `5h07m`, `2d04h`."""
    whole = max(0, round(seconds))
    for size, name, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{name}{whole % size // smaller:02}{below}"
    return f"{whole}s"


class Pace:
    """How fast the steps of this process go, and how long the rest will take."""

    def __init__(self, total: int):
        self.total, self._began = total, time.monotonic()
        self._first: tuple[int, float, float] | None = None
        self._tokens = 0.0

    def step(self, step: int, tokens: float) -> None:
        """Called after each step. tokens: trained on so far."""
        self._tokens = tokens
        if self._first is None:
            self._first = (step, time.monotonic(), tokens)

    def facts(self, step: int) -> dict[str, float]:
        """`seconds` so far; from the second step of this process on `tokens_per_second` and `seconds_left`.

        These are means since its first step: rollouts, validations and checkpoints count.
        """
        now = time.monotonic()
        facts = {"seconds": now - self._began}
        if self._first is not None and step > self._first[0]:
            taken = now - self._first[1]
            facts["tokens_per_second"] = (self._tokens - self._first[2]) / taken
            left = taken / (step - self._first[0]) * (self.total - step)
            facts |= {"seconds_left": left} if left else {}
        return facts


class Watch:
    """Shows how far training is; `console` decides between a live line and plain ones."""

    def __init__(self, console: Console, total: int, show: bool = True):
        self.console, self.total, self.show = console, total, show
        self._pace = Pace(total)
        self.live = console.is_terminal or console.is_jupyter
        self._validation: dict[str, float] = {}
        self._bar: Progress | None = None
        self._task: Any = None
        self._printed = 0.0

    def __enter__(self) -> Watch:
        if self.live and self.show:
            drawn = [BarColumn(bar_width=20)] if self.console.width >= NARROW else []
            self._bar = Progress(
                TextColumn("training"), *drawn, MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("left"), TextColumn("{task.fields[numbers]}", markup=False), console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self.total, numbers="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Called after each step, and after each validation with `val/…` values."""
        if not self.show:
            return
        if any(name.startswith("val/") for name in values):
            self._validation = {"val/loss": values["val/loss"]} if "val/loss" in values else {}
            # Above the live line, whose numbers the next step replaces.
            self._line("validation", step, values)
            return
        self._pace.step(step, values.get("num_tokens", 0.0))
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=short({**values, **self._validation}, self._room()))
        elif step in (1, self.total) or time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            self._line("step", step, values)

    def _line(self, event: str, step: int, values: dict[str, float]) -> None:
        pace = self._pace.facts(step)
        text = line_of(step, self.total, values, pace)
        self.console.say(text, event=event, step=step, metrics={**values, **pace})

    def count(self, label: str, done: int, total: int) -> None:
        """Progress of something before the first step."""
        if self.show and self._bar is not None:
            count = f"{done}/{total}"
            # In a narrow terminal the label is cut, not the numbers.
            label = label[: max(0, self._room() - len(count) - 1)]
            self._bar.update(self._task, completed=0, numbers=f"{label} {count}")
        elif self.show and time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            self.say(f"{label} {done}/{total}")

    def _room(self) -> int:
        """Columns beside the bar, the steps and the times."""
        bar = len("training ") + (21 if self.console.width >= NARROW else 0)
        return self.console.width - bar - 2 * len(f"{self.total}") - len("/ 0:00:00 -:--:-- left ")

    def say(self, text: str) -> None:
        """A line of its own, above the live line."""
        if self.show:
            self.console.say(text)


def counter(console: Console, label: str) -> Callable[[int, int], None]:
    """`label 120/480`: rewritten in place in a terminal, a line now and then elsewhere."""
    printed = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal printed
        count = f"{done}/{total}"
        if can_rewrite(console):
            # In a narrow terminal the label is cut, not the numbers.
            room = max(0, console.width - len(count) - 2)
            rewrite(console, f"{label[:room]} {count}", end="\n" if done >= total else "")
        elif done >= total or time.monotonic() - printed > PLAIN_EVERY_SECONDS:
            printed = time.monotonic()
            console.say(f"{label} {count}", event="progress", metrics={"done": done, "total": total})

    return show


def can_rewrite(console: Console) -> bool:
    """Whether the console can rewrite a line: pipes, notebooks and dumb terminals cannot."""
    return console.is_terminal and not console.is_dumb_terminal


def rewrite(console: Console, text: str, end: str = "") -> None:
    """Replace the terminal's current line. The text is cut to one line: a second one could not be replaced."""
    # As control codes, because rich takes a carriage return out of a text.
    console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    console.print(Text(text), width=max(1, console.width - 1), no_wrap=True, overflow="ellipsis", end=end)
