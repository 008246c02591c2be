"""A file by which others tell a live run from a dead one: heartbeat.json, renewed every few seconds.

A thread writes it, so that a long rollout or a long save does not look like the end. It is removed when the run ends
with a word of its own; a kill leaves it, and it grows old.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ZooError
from zoo.processes import process_is_alive
from zoo.runs import ENDING, Run

FILE = "heartbeat.json"
EVERY = 5.0
"""Seconds between two beats."""
ENDED = ("finished", "failed")
"""States that no heartbeat changes."""
SILENCE = 60.0
"""Seconds without a beat after which a run on another machine counts as dead."""


@dataclass(frozen=True)
class Beat:
    """One beat of a process: Unix time, the last step and its Unix time, all steps, and which process it is."""

    time: float
    step: int
    step_time: float
    steps: int
    pid: int
    host: str
    rank: int
    processes: int

    @property
    def age(self) -> float:
        """Seconds since this beat; 0 where the clock of another machine is ahead."""
        return max(0.0, time.time() - self.time)

    @property
    def is_alive(self) -> bool:
        """Whether the process goes on: on this machine it is looked for, on another one its last beat must be new."""
        if self.host == socket.gethostname():
            return process_is_alive(self.pid) and self.age < 20 * SILENCE
        return self.age < SILENCE


def read_beat(run: Run) -> Beat | None:
    """The last beat of a run; None if it has ended with a word of its own, has not begun, or is of another version."""
    try:
        return Beat(**run.read_json(FILE))
    except (TypeError, ValueError, OSError, ZooError):
        return None


def state_of(summary: dict[str, Any], beat: Beat | None) -> str:
    """training, dead (it has left a heartbeat and is gone), or as the run itself says: finished, failed, stopped, …

    Without a summary and a heartbeat it is unfinished, as of older versions of zoo.
    """
    status = str(summary.get("status", "unfinished"))
    if beat is None or (status in ENDED and not summary.get(ENDING)):
        return status
    return "training" if beat.is_alive else "dead"


@contextlib.contextmanager
def beating(run: Run, progress: Callable[[], tuple[int, int]], rank: int = 0, processes: int = 1) -> Iterator[None]:
    """Beat until the block ends. progress: gives the last step and the number of all steps, 0 where not known yet."""
    ended = threading.Event()
    seen = {"step": -1, "step_time": 0.0}

    def beat() -> None:
        step, steps = progress()
        if step != seen["step"]:
            seen.update(step=step, step_time=time.time())
        now: dict[str, Any] = asdict(
            Beat(time.time(), step, seen["step_time"], steps, os.getpid(), socket.gethostname(), rank, processes)
        )
        # A full disk or a folder that is gone is for the run itself to tell.
        with contextlib.suppress(OSError):
            run.write_json(FILE, now)

    def go_on() -> None:
        while not ended.wait(EVERY):
            beat()

    beat()
    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (run.path / FILE).unlink(missing_ok=True)
