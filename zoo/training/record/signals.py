"""Ctrl-C and SIGTERM: obeyed at once outside of the steps; within them after the step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

HEEDED = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal outside of the steps. Not an Exception, so that no handler of errors catches it."""

    def __init__(self, number: int):
        super().__init__(signal_name(number))
        self.number = number


class Signals:
    """In its `with` block both signals raise `Stopped`.

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


def signal_name(number: int) -> str:
    return "ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
