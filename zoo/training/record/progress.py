"""Progress of a run: one live line in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def short(values: dict[str, float]) -> str:
    """`loss 1.234  val/loss 1.198`, at most five numbers."""
    names = [name for name in values if name.removeprefix("val/") in SHOWN]
    return "  ".join(f"{name} {values[name]:.4g}" for name in names[:5])


class Watch:
    """Shows how far training is; `console` decides between a live line and plain ones."""

    def __init__(self, console: Console, total: int, show: bool = True):
        self.console, self.total, self.show = console, total, show
        self.live = console.is_terminal or console.is_jupyter
        self._validation: dict[str, float] = {}
        self._bar: Progress | None = None
        self._task: Any = None
        self._printed = 0.0

    def __enter__(self) -> Watch:
        if self.live and self.show:
            self._bar = Progress(
                TextColumn("training"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[numbers]}", markup=False), console=self.console,
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
            if not self.live:
                self.console.say(f"step {step}/{self.total}  {short(values)}")
            return
        text = short({**values, **self._validation})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
        elif step in (1, self.total) or time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            self.console.say(f"step {step}/{self.total}  {short(values)}")

    def count(self, label: str, done: int, total: int) -> None:
        """Progress of something before the first step."""
        if self.show and self._bar is not None:
            self._bar.update(self._task, completed=0, numbers=f"{label} {done}/{total}")
        elif self.show and time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            self.say(f"{label} {done}/{total}")

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
            console.say(f"{label} {count}")

    return show


def can_rewrite(console: Console) -> bool:
    """Whether the console can rewrite a line: pipes, notebooks and dumb terminals cannot."""
    return console.is_terminal and not console.is_dumb_terminal


def rewrite(console: Console, text: str, end: str = "") -> None:
    """Replace the terminal's current line. The text is cut to one line: a second one could not be replaced."""
    # As control codes, because rich takes a carriage return out of a text.
    console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    console.print(Text(text), width=max(1, console.width - 1), no_wrap=True, overflow="ellipsis", end=end)
