"""Tasks as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from zoo.numbers import amount
from zoo.processes import cores, end_with_parent
from zoo.workers.tasks import Task


class LocalProcess:
    """A task in a process of its own, which ends with this one."""

    def __init__(self, task: Task, environment: Mapping[str, str], death: signal.Signals):
        with task.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zoo", *task.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **environment}, start_new_session=True, preexec_fn=partial(end_with_parent, death),
            )  # fmt: skip

    def status(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)


class LocalWorkers:
    """Processes of this machine: at most `count` at a time, which share its cores and its GPUs."""

    def __init__(self, count: int):
        self.count = count
        self.name = f"{amount(count, 'process', 'processes')} of this machine"
        self.places: list[LocalProcess | None] = [None] * count

    def free(self, running: int) -> bool:
        return running < self.count

    def start(self, task: Task) -> LocalProcess:
        place = next(n for n, held in enumerate(self.places) if held is None or held.status() is not None)
        process = LocalProcess(task, self._share(place), signal.SIGTERM)
        self.places[place] = process
        return process

    def _share(self, place: int) -> dict[str, str]:
        """The environment that gives a process its share of the machine."""
        share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // self.count)))}
        if devices := visible_devices():
            share["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
        return share

    def close(self) -> None:
        """Nothing is left: every process has ended."""


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
