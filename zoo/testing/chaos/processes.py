"""Forks of this process, which has imported everything: each does one action, tells what it does, and may be killed.

Needs Linux, and a process without threads: torch has one thread here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tqdm

from zoo.errors import ZooError
from zoo.processes import end_with_parent
from zoo.testing.chaos.aims import Aim
from zoo.testing.chaos.events import FileEvents
from zoo.testing.chaos.phases import Teller, Trace
from zoo.testing.processes import launched

LONGEST = 300.0
"""Seconds after which a process hangs."""
PATIENCE = (3.0, 10.0)
"""Seconds that other processes of a run have to end by themselves after one was killed, and then after SIGTERM."""


@dataclass(frozen=True)
class Target:
    """Where a process is hit. A moment is a share of the phase's length, an event is the number of a file event.

    ranks: which processes are hit; occurrence: of the phase among those of the same name and step.
    """

    phase: str
    step: int
    occurrence: int = 0
    moment: float | None = None
    event: int | None = None
    seconds: float = 0.0
    """How long the phase takes."""
    ranks: tuple[int, ...] = (0,)
    fault: str = "kill"

    def __str__(self) -> str:
        where = f"#{self.event}" if self.event is not None else f"+{self.moment:.3f}"
        ranks = "" if self.ranks == (0,) else f" of rank {' and '.join(map(str, self.ranks))}"
        return f"{self.phase}@{self.step}{where}{ranks}"


SIGNALS = {"kill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT}
"""What a fault at a moment sends."""


class Process:
    """A fork that does an action. output: the file that it prints to."""

    def __init__(
        self, action: Callable[[Path], None], aim: Aim, folder: Path, environment: Mapping[str, str], files: str,
        target: Target | None, rank: int, output: Path,
    ):  # fmt: skip
        self.trace, self.output, self.rank = Trace(), output, rank
        self.status: int | None = None
        self.hit = False
        """Whether the target's signal was sent to it, or it died at the target's event."""
        self.told = 0
        """The last signal with which it was told to end, because it waited for others or hung."""
        self.trace.begin(time.monotonic())
        self.pipe, theirs = os.pipe()
        mine = target if target is not None and rank in target.ranks else None
        sys.stdout.flush()
        sys.stderr.flush()
        self.number = os.fork()
        if not self.number:
            os.close(self.pipe)
            _perform(action, aim, folder, environment, files, mine, theirs, output)
        os.close(theirs)

    def listen(self) -> list[Any]:
        """Read what it told; gives the phases that began, and notes its end."""
        entries: list[Any] = []
        while self.status is None and select.select([self.pipe], [], [], 0)[0]:
            told = os.read(self.pipe, 1 << 16)
            if not told:
                break
            entries += self.trace.feed(told)
        if self.status is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self._ended(os.waitstatus_to_exitcode(status))
        return entries

    def _ended(self, status: int) -> None:
        self.status = status
        # What was sent to a process that had already ended well came too late.
        self.hit = (self.hit and status != 0) or (status == -signal.SIGKILL and not self.told)
        os.set_blocking(self.pipe, False)
        with contextlib.suppress(BlockingIOError):
            while told := os.read(self.pipe, 1 << 16):
                self.trace.feed(told)
        os.close(self.pipe)
        self.trace.end(time.monotonic())

    def send(self, number: int) -> None:
        if self.status is None:
            os.kill(self.number, number)

    def end(self, number: int) -> None:
        """Tell it once to end."""
        if self.told != number:
            self.told = number
            self.send(number)

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.is_file() else ""


def _perform(
    action: Callable[[Path], None], aim: Aim, folder: Path, environment: Mapping[str, str], files: str,
    target: Target | None, pipe: int, output: Path,
) -> None:  # fmt: skip
    """The life of a fork: the action, and an exit status as the command line has it."""
    status = 1
    try:
        end_with_parent()
        os.chdir(folder)
        os.environ.update(environment)
        with output.open("w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            # Before any thread does it: torch makes its pool of threads anew after a fork, and not twice at once.
            torch.set_num_threads(1)
            at = (target.phase, target.step, target.event) if target and target.event is not None else None
            events = FileEvents(
                teller := Teller(pipe), folder, files, at, target is not None and target.fault == "full"
            )
            status = _status_of(lambda: _watched(action, aim, folder, teller, events))
            teller.tell("loaded", "\t".join(sys.modules))
            stream.flush()
    finally:
        os._exit(status)


def _watched(
    action: Callable[[Path], None], aim: Aim, folder: Path, teller: Teller, events: FileEvents
) -> None:  # fmt: skip
    teller.install(aim.phases, aim.steps)
    events.install()
    action(folder)


def _status_of(action: Callable[[], None]) -> int:
    try:
        action()
        return 0
    except ZooError as error:
        print(error)
        return error.exit_status
    except SystemExit as error:
        return int(error.code or 0)
    except KeyboardInterrupt:
        # As the command line ends where nobody listens yet.
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return CRASHED


CRASHED = 70
"""The exit status of a fork after an exception that is no ZooError."""


# -- several -------------------------------------------------------------------------------------------------------


def start(aim: Aim, folder: Path, target: Target | None, files: str, environment: Mapping[str, str]) -> list[Process]:
    """Start the processes of an aim in a folder; each goes on if something was begun, else begins."""
    goes_on = aim.resume is not None and aim.begun(folder)
    action = aim.resume if goes_on and aim.resume is not None else aim.make
    size = (aim.resumed if goes_on else 0) or aim.processes
    places: list[dict[str, str]] = [{}] if size == 1 else [dict(place) for place in launched(size)]
    gc.freeze()
    return [
        Process(
            action, aim, folder, {**environment, **place}, files, target, rank,
            folder.with_name(f"{folder.name}-rank-{rank}.txt"),
        )
        for rank, place in enumerate(places)
    ]  # fmt: skip


def wait(processes: Sequence[Process], target: Target | None) -> None:
    """Until all have ended: hits the target on the way, and then ends those that are left, as torchrun does."""
    due, ending = None, None
    begun = time.monotonic()
    if target is not None and target.step == 0 and target.phase == processes[0].trace.phase:
        due = _due(target)
    while any(process.status is None for process in processes):
        now = time.monotonic()
        for process in processes:
            for entry in process.listen():
                if due is None and _meets(entry, target) and process.rank == (target.ranks[0] if target else -1):
                    due = _due(target)
        if due is not None and now >= due and target is not None and target.moment is not None:
            due = float("inf")
            for process in processes:
                process.hit = process.rank in target.ranks and process.status is None
                if process.hit:
                    process.send(SIGNALS[target.fault])
        ending = ending or (now if any(process.status not in (None, 0) for process in processes) else None)
        _end_others(processes, now, ending, begun)
        _pause(processes, due)


def _pause(processes: Sequence[Process], due: float | None) -> None:
    """Until something is told, or the time has come; a process that ends closes its pipe, or is seen soon."""
    left = 0.05 if due is None else min(max(due - time.monotonic(), 0.0), 0.05)
    pipes = [process.pipe for process in processes if process.status is None]
    if pipes:
        select.select(pipes, [], [], left)


def _meets(entry: Any, target: Target | None) -> bool:
    return target is not None and (entry.phase, entry.step, entry.number) == (
        target.phase, target.step, target.occurrence
    )  # fmt: skip


def _due(target: Target | None) -> float | None:
    return None if target is None or target.moment is None else time.monotonic() + target.moment * target.seconds


def _end_others(processes: Sequence[Process], now: float, ending: float | None, begun: float) -> None:
    """One that waits for a dead process is told to end, and then killed; so is one that hangs."""
    for process in processes:
        if process.status is None:
            if now - begun > LONGEST or (ending is not None and now - ending > sum(PATIENCE)):
                process.end(signal.SIGKILL)
            elif ending is not None and now - ending > PATIENCE[0] and len(processes) > 1:
                process.end(signal.SIGTERM)


# -- this process --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A process with threads must not fork."""
    threads, interval = torch.get_num_threads(), tqdm.tqdm.monitor_interval
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        tqdm.tqdm.monitor_interval = interval


def import_what_was(modules: Sequence[str]) -> None:
    """Import what a fork has imported, so that the forks after it need not."""
    for name in modules:
        if name not in sys.modules and not name.startswith("_"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
