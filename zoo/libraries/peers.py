"""The other processes of a run: connecting with them, a watch over them, and the end that all wait for.

torch waits for them in C++, where Python's signal handlers do not run. A process that dies is noticed by gloo in the
next exchange, by NCCL after minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from zoo.errors import PluginError, TrainingFailed, TrainingStopped, ZooError
from zoo.libraries.cluster import Place, launcher_of
from zoo.libraries.reliance import importing
from zoo.processes import begin_exchange, from_all, leave_processes, my_rank, process_is_alive

with importing("lightning"):
    from lightning.fabric.utilities.distributed import (
        _get_default_process_group_backend_for_device,
        _init_dist_connection,
    )

FIRST_WORD = 15.0
"""Seconds of waiting before the first message; the interval then doubles."""
PATIENCE = timedelta(minutes=30)
"""How long processes wait for each other, when they connect and in every exchange."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the other processes."""
ASK_EVERY = 0.1
"""Seconds between two questions whether the first process is through."""
LAST_WORD = 10.0
"""Seconds that this process has to end by itself once another one has ended."""
LOST = ("gloo", "nccl", "closed by peer", "reset by peer", "connection refused", "broken pipe", "socket")
"""Words in what the backends say of a process that is gone."""
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
"""Variables that Lightning writes when it connects: a later run would read them as those of a launcher."""
HERE, END, READ = "here", "end", "read"
"""Keys of the store: of each process that has come, of what became of the first one's work, and who has read that."""
NAMED = 8
"""More ranks than these are counted, not listed."""
_RUNS = count()
_STARTED: list[Any] = []
"""The processes that runs of this one have started. Each goes through the whole script, from its beginning."""
_STORES: dict[tuple[str, int], Any] = {}
"""By address, those of processes that something else has started: they may make several runs."""


def refuse_another(place: Place) -> None:
    """Raises ZooError for a second run whose processes this one starts: they would make the first one again."""
    if place.processes == 1 or place.environment.creates_processes_externally or not _STARTED:
        return
    for process in _STARTED:
        process.kill()
    raise ZooError(
        "This script has made a run with several processes, which went through it too, so that it cannot start others.",
        f"Start it as torchrun --nproc-per-node {place.processes} SCRIPT.py: then it may make any number of runs. Or "
        "make each run with a command of its own, zoo train.",
    )


class Peers:
    """The other processes of a run, and which of them have ended. Those of other machines cannot be looked at."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[str, int]] = {}
        self.rank = 0
        self.store: Any = None
        self._over = threading.Event()
        self._failed = False

    def connect(
        self, place: Place, device: torch.device, say: Callable[[str], None], started: Sequence[Any] = (),
        **options: Any,
    ) -> None:  # fmt: skip
        """Wait for all of them. started: the processes that this one has started; options: of torch's
        `init_process_group`. Raises ZooError where they do not come, and TrainingStopped where one has ended."""
        meeting = _Rendezvous(place)

        def waiting(seconds: float) -> None:
            if place.local_rank == 0:
                say(meeting.waiting(seconds))

        def meet() -> None:
            if device.type == "cuda":
                # The current device belongs to the thread.
                torch.cuda.set_device(device)
            self.store = meeting.come()
            if self._over.is_set():
                return
            backend = _get_default_process_group_backend_for_device(device)
            _init_dist_connection(
                place.environment, backend, place.rank, place.processes, store=self.store, timeout=PATIENCE, **options
            )

        before = {name: os.environ.get(name) for name in ADDRESS}
        try:
            in_background(meet, waiting, lambda: _refuse_ended(place, started))
        except BaseException as error:
            self._failed = True
            self.leave()
            _write_back(before)
            if not isinstance(error, RuntimeError):
                raise
            raise ZooError(
                f"The {place.processes} processes of this run did not connect at {meeting.address}: "
                f"{meeting.who_did_not_come()}{str(error).splitlines()[0]}",
                "Start all of them at the same time. The port must be free on that machine, and open to the others.",
            ) from error

    def meet(self, lost: Callable[[list[int]], None]) -> None:
        """Learn where all are, and watch them until `leave`.

        lost: called in a thread, with the ranks that have ended, if this process still goes on LAST_WORD later.
        """
        self.rank = my_rank()[0]
        self.places = dict(from_all((self.rank, (socket.gethostname(), os.getpid()))))
        threading.Thread(target=self._watch, args=(lost,), name="peers", daemon=True).start()

    def leave(self) -> None:
        """They may end from now on."""
        self._over.set()

    def _watch(self, lost: Callable[[list[int]], None]) -> None:
        while not self._over.wait(LOOK_EVERY):
            if self.gone() and not self._over.wait(LAST_WORD):
                lost(self.gone())
                return

    def gone(self) -> list[int]:
        """The ranks of processes of this machine that have ended."""
        here = socket.gethostname()
        return [rank for rank, (host, pid) in self.places.items() if host == here and not process_is_alive(pid)]

    def gone_soon(self) -> list[int]:
        """The same; a connection may end a moment before its process does."""
        end = time.monotonic() + LAST_WORD / 2
        while not (gone := self.gone()) and time.monotonic() < end:
            time.sleep(0.05)
        return gone

    def speaks(self, gone: list[int]) -> bool:
        """Whether this process tells of it: the first of those that are left."""
        return self.rank == min((rank for rank in self.places if rank not in gone), default=0)

    # -- the end -------------------------------------------------------------------------------------------------

    def part(self) -> None:
        """The end of all exchanges, in all processes together."""
        begin_exchange()
        self.leave()
        leave_processes()

    def first_alone(self, work: Callable[[], None]) -> None:
        """Work of the first process, for which the others wait, however long it takes. What it raises, all raise."""
        if self.rank == 0:
            try:
                work()
            except BaseException as error:
                self._failed = True
                self._tell(_as_json(error))
                raise
            self._tell(None)
        elif (failure := self._told()) is not None:
            raise _from_json(failure)

    def _tell(self, failure: dict[str, Any] | None) -> None:
        """The store may end with this process, so that it waits until all have read it."""
        if self.store is None:
            return
        end = time.monotonic() + LAST_WORD
        with contextlib.suppress(RuntimeError):
            self.store.set(END, json.dumps(failure))
            while time.monotonic() < end and not all(self._has_read(rank) for rank in self.places):
                time.sleep(ASK_EVERY)

    def _has_read(self, rank: int) -> bool:
        return rank in (self.rank, *self.gone()) or bool(self.store.check([f"{READ} {rank}"]))

    def _told(self) -> dict[str, Any] | None:
        while not self.store.check([END]):
            if 0 in self.gone():
                raise dist.DistNetworkError("the first process has ended")
            time.sleep(ASK_EVERY)
        told: dict[str, Any] | None = json.loads(self.store.get(END))
        self.store.set(f"{READ} {self.rank}", "")
        return told

    def close(self, started: Iterable[Any] = ()) -> None:
        """The end in any case. started: processes that this one started, which would wait for it."""
        started = list(started)
        _STARTED.extend(started)
        self.leave()
        connected = self.store is not None and dist.is_initialized()
        for process in started if connected or self._failed else ():
            process.kill()
        if connected:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _write_back(variables: Mapping[str, str | None]) -> None:
    """Give the environment these variables as they were; None: there was none."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class _Rendezvous:
    """Where the processes of a run meet: a store at an address, in which each of them says that it has come."""

    def __init__(self, place: Place):
        self.place = place
        environment: Any = place.environment
        self._at = environment.main_address, environment.main_port
        self.address = f"{self._at[0]}:{self._at[1]}"
        lasts = environment.creates_processes_externally
        # What a run has written stays in torchrun's store; the next one would read its addresses.
        self._name = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} run {next(_RUNS) if lasts else 0}"
        self._lasts = lasts
        self._found = False

    def come(self) -> Any:
        """The store, once the process that holds it is there."""
        place, store = self.place, _STORES.get(self._at)
        if store is None:
            agent_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            store = self._open(place.rank == 0 and not agent_holds_it, PATIENCE)
        if self._lasts:
            _STORES[self._at] = store
        named = dist.PrefixStore(self._name, store)
        named.set(f"{HERE} {place.rank}", "")
        self._found = True
        return named

    def _open(self, holds: bool, timeout: timedelta) -> Any:
        return dist.TCPStore(*self._at, self.place.processes, holds, timeout, wait_for_workers=False, multi_tenant=True)

    def missing(self) -> list[int]:
        """The ranks of those that have not come; before the store is found, the first one alone is known."""
        if not self._found:
            return [0]
        # A connection of its own: the other one is taken by the thread that waits.
        store = dist.PrefixStore(self._name, self._open(False, timedelta(seconds=LAST_WORD)))
        return [rank for rank in range(self.place.processes) if not store.check([f"{HERE} {rank}"])]

    def waiting(self, seconds: float) -> str:
        minutes = PATIENCE.total_seconds() / 60
        return (
            f"Waiting for {self._who()} of {self.place.processes} for {seconds:.0f} s, at {self.address}. This is "
            f"process {self.place.rank}; it gives up after {minutes:g} minutes, and ctrl-C ends it."
        )

    def _who(self) -> str:
        with contextlib.suppress(RuntimeError):
            return listed(self.missing()) or "the connections between the processes"
        return "the first process"

    def who_did_not_come(self) -> str:
        """`process 1 did not come: `; empty where all have, or the store was never found."""
        with contextlib.suppress(RuntimeError):
            if self._found and (missing := self.missing()):
                return f"{listed(missing)} did not come: "
        return ""


def listed(ranks: Sequence[int]) -> str:
    """`process 3`; `processes 1, 2 and 3`; empty for none."""
    if len(ranks) > NAMED:
        return f"{len(ranks)} processes, among them {', '.join(map(str, ranks[:NAMED]))},"
    *others, last = map(str, ranks) if ranks else [""]
    if others:
        return f"processes {', '.join(others)} and {last}"
    return f"process {last}" if last else ""


def how_it_ended(place: Place, children: Sequence[Any], rank: int) -> str:
    """` (by signal 9, SIGKILL)`, ` (with status 1)`; of a process that this one did not start, who can tell.

    children: the processes that this one has started, of ranks that follow its own.
    """
    local = rank - place.rank
    if not 0 < local <= len(children):
        return f" ({launcher_of(place) or 'what started it'} tells how)"
    try:
        # Its threads may end a moment after it.
        status = children[local - 1].wait(LAST_WORD / 2)
    except subprocess.TimeoutExpired:
        return ""
    return f" (with status {status})" if status >= 0 else f" (by signal {-status}, {signal.Signals(-status).name})"


def _refuse_ended(place: Place, started: Sequence[Any]) -> None:
    """Raises TrainingStopped if a process that this one has started has ended before all have met."""
    ended = [place.rank + number for number, process in enumerate(started, 1) if process.poll() is not None]
    if ended:
        which = f"Process {ended[0]} of {place.processes} has ended{how_it_ended(place, started, ended[0])}"
        raise TrainingStopped(f"{which} before the processes met, so the others end too.", "Start the run again.")


def in_background(
    work: Callable[[], None], waiting: Callable[[float], None], look: Callable[[], None] = lambda: None
) -> None:
    """Run work in a thread, so that this one handles signals.

    waiting: called at intervals with the seconds; look: called every second, and ends the wait by raising.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seconds, due = 0.0, FIRST_WORD
    while True:
        pause = min(LOOK_EVERY, due - seconds)
        thread.join(pause)
        if not thread.is_alive():
            break
        look()
        seconds += pause
        if seconds >= due:
            due = 2 * seconds
            waiting(seconds)
    if failed:
        raise failed[0]


def is_lost_connection(error: BaseException | None) -> bool:
    """Whether an exchange between processes has failed, with this error or one behind it."""
    while error is not None:
        words = str(error).lower()
        if isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and any(word in words for word in LOST)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


KINDS: tuple[type[ZooError], ...] = (TrainingFailed, TrainingStopped, PluginError, ZooError)
"""The errors that are told to the other processes as what they are."""


def _as_json(error: BaseException) -> dict[str, Any]:
    """What the others raise for this: the same of the user's errors; of a fault or a signal, they only end."""
    if not isinstance(error, ZooError):
        return {}
    kind = next(kind for kind in KINDS if isinstance(error, kind))
    return {"kind": KINDS.index(kind), "message": error.message, "hint": error.hint, "status": error.exit_status}


def _from_json(told: dict[str, Any]) -> BaseException:
    if not told:
        return SystemExit(1)
    error = KINDS[told["kind"]](told["message"], told["hint"])
    error.exit_status = told["status"]
    return error
