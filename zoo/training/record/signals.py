"""What asks a run to stop: ctrl-C, the signals of schedulers, and the end of its time.

Obeyed at once outside of the steps; within them after the step, with a checkpoint.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import OUT_OF_TIME

# USR1 is what `sbatch --signal=USR1@300` sends before the end of a job, HUP what a closed terminal sends.
HEEDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
TIME_UP = 1000
"""The end of the run's time, where a signal has its number."""


class Stopped(BaseException):
    """A signal outside of the steps. Not an Exception, so that no handler of errors catches it."""

    def __init__(self, number: int):
        super().__init__(signal_name(number))
        self.number = number


class Signals:
    """In its `with` block the signals raise `Stopped`.

    While `deferred`, the first one is kept in `number` for the loop to find, and a second one ends the process.
    on_wait: called when a signal will be obeyed after the step.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self.number: int | None = None
        self.deferred = False
        self.on_wait = on_wait
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._former = {number: signal.getsignal(number) for number in HEEDED}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        if _main_thread():
            for number, former in self._former.items():
                signal.signal(number, former)

    def install(self) -> None:
        """Install the handlers (again, after Lightning has installed its own)."""
        if _main_thread():
            for number in HEEDED:
                # Under `nohup` the signal of a closed terminal is ignored, and stays so.
                if not (number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN):
                    signal.signal(number, self._heed)

    def _heed(self, number: int, frame: Any) -> None:
        if self.deferred and self.number is None:
            self.number = number
            self.on_wait()
            return
        # A second signal ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        if self.deferred:
            signal.raise_signal(number)
        raise Stopped(number)


class Deadline:
    """The end of a run's time. begun: when it began, on the monotonic clock; seconds: how long it may take, or None."""

    def __init__(self, begun: float, seconds: float | None):
        self.end = None if seconds is None else begun + seconds
        self.former, self.longest = time.monotonic(), 0.0
        self.closing = 0.0
        """Seconds that the scores after the last step may take: those that they took before the first one."""

    def is_near(self) -> bool:
        """Whether a step as long as the longest one so far would end too late. Called after every step."""
        now = time.monotonic()
        self.longest, self.former = max(self.longest, now - self.former), now
        return self.end is not None and now + self.longest > self.end

    def is_near_at_the_end(self) -> bool:
        """Whether scores as slow as those before the first step would end too late. Called after the last step."""
        return self.end is not None and time.monotonic() + self.closing > self.end


def signal_name(number: int) -> str:
    if number in (signal.SIGINT, TIME_UP):
        return "ctrl-C" if number == signal.SIGINT else "--max-time"
    return signal.Signals(number).name


def exit_status(number: int) -> int:
    """The exit status after a signal, or after the end of the run's time."""
    return OUT_OF_TIME if number == TIME_UP else 128 + number


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
