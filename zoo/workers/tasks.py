"""Several commands of zoo at a time, each after the commands that it needs.

A command that is killed goes on from its last checkpoint when it is typed again. So a task that a signal ends is
started again; whatever else has failed stays failed, and the tasks that need it are not started.
"""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zoo.numbers import clock

MOST_STARTS = 3
"""Times that a task is started before it counts as failed."""
POLL = 0.2
"""Seconds between two looks at the tasks."""
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
"""Exit statuses of a process that did not end itself."""


@dataclass(frozen=True)
class Task:
    """One command. arguments: those of `zoo`; log: the file of its output; needs: names of tasks that come before."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return shlex.join(["zoo", *self.arguments])


class Process(Protocol):
    """A task that was started."""

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it goes on."""

    def stop(self) -> None:
        """Ask it to save a checkpoint and end."""


class Workers(Protocol):
    """Where tasks run."""

    name: str

    def free(self, running: int) -> bool:
        """Whether a task can be started beside so many."""

    def start(self, task: Task) -> Process: ...

    def close(self) -> None: ...


def run_tasks(tasks: Sequence[Task], workers: Workers, say: Callable[[str], None]) -> set[str]:
    """Run the tasks; returns the names of those that have failed or were not started because of that.

    Ctrl-C and SIGTERM stop all tasks, each with a checkpoint; then KeyboardInterrupt is raised.
    """
    return _Schedule(tasks, workers, say).go()


class _Schedule:
    """The tasks of a call of `run_tasks`: waiting, running, done, failed."""

    def __init__(self, tasks: Sequence[Task], workers: Workers, say: Callable[[str], None]):
        self.workers, self.say, self.count = workers, say, len(tasks)
        self.waiting = {task.name: task for task in tasks}
        self.running: dict[str, tuple[Task, Process, float]] = {}
        self.starts = dict.fromkeys(self.waiting, 0)
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def go(self) -> set[str]:
        try:
            with _asked_to_stop() as asked:
                while (self.waiting or self.running) and not asked:
                    self._look()
                    self._start()
                    time.sleep(POLL)
            if asked:
                self._stop()
                raise KeyboardInterrupt
        finally:
            self.workers.close()
        return self.failed

    def _start(self) -> None:
        for task in list(self.waiting.values()):
            if self.failed.intersection(task.needs):
                self._fail(task, f"was not started, because {self._failed_of(task)} failed")
            elif self.done.issuperset(task.needs) and self.workers.free(len(self.running)):
                del self.waiting[task.name]
                self.starts[task.name] += 1
                task.log.parent.mkdir(parents=True, exist_ok=True)
                self.running[task.name] = (task, self.workers.start(task), time.monotonic())
                again = " again" if self.starts[task.name] > 1 else ""
                self.say(f"{task.name}: started{again}, log in {task.log}")

    def _failed_of(self, task: Task) -> str:
        return " and ".join(name for name in task.needs if name in self.failed)

    def _look(self) -> None:
        for name, (task, process, begun) in list(self.running.items()):
            status = process.status()
            if status is None:
                continue
            del self.running[name]
            if status in KILLED and self.starts[name] < MOST_STARTS:
                self.say(f"{name}: killed by {signal_name(status)}; it goes on from its last checkpoint.")
                self.waiting = {name: task, **self.waiting}
            elif status:
                self._fail(task, f"failed ({how_it_ended(status)}): {last_line(task.log)}")
            else:
                self.done.add(name)
                ended = len(self.done) + len(self.failed)
                self.say(f"{name}: finished after {clock(time.monotonic() - begun)} ({ended} of {self.count})")

    def _fail(self, task: Task, why: str) -> None:
        self.waiting.pop(task.name, None)
        self.failed.add(task.name)
        self.say(f"{task.name} {why}")

    def _stop(self) -> None:
        """Wait until every task has saved a checkpoint; another ctrl-C does not wait."""
        names = ", ".join(self.running)
        self.say(f"Stopping {names}, with a checkpoint." if names else "Stopping.")
        for _, process, _ in self.running.values():
            process.stop()
        while any(process.status() is None for _, process, _ in self.running.values()):
            time.sleep(POLL)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """The signals that came in the block, which end nothing by themselves: no task is lost between two lines."""
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_name(status: int) -> str:
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name


def how_it_ended(status: int) -> str:
    return f"status {status}" if 0 < status < 128 else signal_name(status)


def last_line(log: Path) -> str:
    """The last line that a task has printed."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"
