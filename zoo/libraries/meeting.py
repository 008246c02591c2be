"""Lightning's DDP strategy, with a visible and interruptible wait for the other processes.

torch waits for them in C++, where Python's signal handlers do not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.cluster import started_by
from zoo.libraries.reliance import importing, relies_on

with importing("lightning"):
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

FIRST_WORD = 15.0
"""Seconds of waiting before the first message; the interval then doubles."""


class Meeting(DDPStrategy):
    """say: called with the message that this process waits; met: called once all processes have connected."""

    def __init__(self, say: Callable[[str], None], met: Callable[[], None]):
        super().__init__()
        self.say, self.met = say, met

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
