"""Lightning's DDP strategy, with a visible and interruptible wait for the other processes, and a watch over them.

torch waits for them in C++, where Python's signal handlers do not run. A process that dies is noticed by gloo in the
next exchange, by NCCL after minutes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.cluster import started_by
from zoo.libraries.reliance import importing, relies_on
from zoo.processes import from_all, my_rank, process_is_alive

with importing("lightning"):
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

FIRST_WORD = 15.0
"""Seconds of waiting before the first message; the interval then doubles."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the other processes."""
LAST_WORD = 10.0
"""Seconds that this process has to end by itself once another one has ended."""
LOST = ("gloo", "nccl", "closed by peer", "reset by peer", "connection refused", "broken pipe", "socket")
"""Words in what the backends say of a process that is gone."""


class Meeting(DDPStrategy):
    """say: called with the message that this process waits; met: called once all processes have connected."""

    def __init__(self, say: Callable[[str], None], met: Callable[[], None]):
        super().__init__()
        self.say, self.met = say, met

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        environment = self.cluster_environment
        if environment is not None and isinstance(self._launcher, _SubprocessScriptLauncher):
            self._launcher = Launcher(environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        try:
            in_background(self._meet, self._still_waiting)
        except RuntimeError as error:
            raise ZooError(
                f"The {self.world_size} processes of this run did not connect at {self._address}: "
                f"{str(error).splitlines()[0]}",
                "Start all of them at the same time. The port must be free on that machine, and open to the others.",
            ) from error
        self.met()

    def _meet(self) -> None:
        if self.root_device.type == "cuda":
            # The current device belongs to the thread.
            torch.cuda.set_device(self.root_device)
        super().setup_distributed()

    def _still_waiting(self, seconds: float) -> None:
        if self.local_rank == 0:
            self.say(
                f"Waiting for the other processes for {seconds:.0f} s: process {self.global_rank} of "
                f"{self.world_size}, at {self._address} (ctrl-C ends it)."
            )

    @property
    def _address(self) -> str:
        environment: Any = self.cluster_environment
        return f"{environment.main_address}:{environment.main_port}"


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine. Lightning's own kills this one, without a word, when one ends."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class Peers:
    """The other processes of a run, and which of them have ended. Those of other machines cannot be looked at."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[str, int]] = {}
        self.rank = 0
        self._over = threading.Event()

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


def is_lost_connection(error: BaseException | None) -> bool:
    """Whether an exchange between processes has failed, with this error or one behind it."""
    while error is not None:
        words = str(error).lower()
        if isinstance(error, torch.distributed.DistError) or (
            isinstance(error, RuntimeError) and any(word in words for word in LOST)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def how_it_ended(trainer: Any, rank: int) -> str:
    """` (by signal 9, SIGKILL)`, ` (with status 1)`; empty for a process that this one did not start."""
    children = getattr(trainer.strategy.launcher, "procs", ())
    local = rank - trainer.global_rank
    if not 0 < local <= len(children):
        return ""
    try:
        # Its threads may end a moment after it.
        status = children[local - 1].wait(LAST_WORD / 2)
    except subprocess.TimeoutExpired:
        return ""
    return f" (with status {status})" if status >= 0 else f" (by signal {-status}, {signal.Signals(-status).name})"


def in_background(work: Callable[[], None], waiting: Callable[[float], None]) -> None:
    """Run work in a thread, so that this one handles signals; waiting: called at intervals with the seconds."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seconds, pause = 0.0, FIRST_WORD
    thread.join(pause)
    while thread.is_alive():
        seconds, pause = seconds + pause, max(pause, seconds + pause)
        waiting(seconds)
        thread.join(pause)
    if failed:
        raise failed[0]


# -- checks --------------------------------------------------------------------------------------------------------


@relies_on("lightning", "DDPStrategy makes its launcher in `_configure_launcher`, and `launch` calls the function.")
def processes_are_started_where_we_start_them() -> None:
    strategy = Meeting(lambda text: None, lambda: None)
    strategy.accelerator, strategy.parallel_devices = CPUAccelerator(), [torch.device("cpu")]
    with started_by({}):
        strategy.cluster_environment = LightningEnvironment()
        strategy._configure_launcher()
        launcher = strategy.launcher
        assert isinstance(launcher, Launcher), f"the launcher is a {type(launcher).__name__}"
        launcher._call_children_scripts = lambda: None  # type: ignore[method-assign]
        assert launcher.launch(lambda value: value, 3) == 3, "the function was not called"


@relies_on("lightning", "DDPStrategy connects to the other processes in `setup_distributed`, and nowhere else.")
def processes_meet_where_we_wait() -> None:
    met: list[str] = []

    class Probe(Meeting):
        def setup_distributed(self) -> None:
            met.append(self._address)

    strategy = Probe(lambda text: None, lambda: None)
    strategy.accelerator = CPUAccelerator()
    strategy.parallel_devices = [torch.device("cpu")]
    with started_by({}):
        strategy.cluster_environment = LightningEnvironment()
        strategy.setup_environment()
    assert len(met) == 1 and "127.0.0.1:" in met[0], f"it was called {len(met)} times, at {met}"
