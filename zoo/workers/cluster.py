"""Tasks on a cluster of Ray, whose machines share the folders of this one and have zoo installed.

A task whose machine is lost is started again on another one, where it goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.libraries.extras import installed_by
from zoo.numbers import amount
from zoo.workers.local import LocalProcess
from zoo.workers.tasks import POLL, Task

START = "Start it with: ray start --head, and on the other machines: ray start --address HEAD:6379"


class ClusterProcess:
    """A task that Ray runs somewhere."""

    def __init__(self, ray: Any, answer: Any, stop_file: Path):
        self.ray, self.answer, self.stop_file = ray, answer, stop_file

    def status(self) -> int | None:
        if not self.ray.wait([self.answer], timeout=0)[0]:
            return None
        try:
            return int(self.ray.get(self.answer))
        except self.ray.exceptions.RayTaskError:
            return 1
        except self.ray.exceptions.RayError:
            # The machine is lost, or the process on it.
            return -signal.SIGKILL

    def stop(self) -> None:
        """Ask by a file in the shared folder: Ray itself would end the task without a checkpoint."""
        self.stop_file.touch()


class ClusterWorkers:
    """The machines of a Ray cluster. cpus, gpus: what each task takes; Ray decides how many run at a time."""

    def __init__(self, address: str = "auto", cpus: float = 1, gpus: float | None = None):
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise ZooError(
                "--workers ray needs Ray, which is not installed.",
                f"Install it on every machine: {installed_by('ray', 'ray')}",
            ) from None
        self.ray = ray
        # A machine that is lost makes Ray print its whole state.
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError) as error:
            raise ZooError(f"There is no Ray cluster at '{address}': {error}", START) from None
        held = ray.cluster_resources()
        gpus = (1 if held.get("GPU") else 0) if gpus is None else gpus
        self._refuse_too_much(held, cpus, gpus)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self.name = f"a Ray cluster of {amount(len(nodes), 'machine')}"
        self.options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}

    def _refuse_too_much(self, held: dict[str, float], cpus: float, gpus: float) -> None:
        """Raises ZooError for a task that would wait for ever."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            return
        self.ray.shutdown()
        raise ZooError(
            f"No machine of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a task; all together have "
            f"{held.get('CPU', 0):g} and {held.get('GPU', 0):g}.",
            'Ask for less: --workers "ray(cpus=1, gpus=0)"',
        )

    def free(self, running: int) -> bool:
        return True

    def start(self, task: Task) -> ClusterProcess:
        stop_file = task.log.with_suffix(".stop").absolute()
        stop_file.unlink(missing_ok=True)
        function = self.ray.remote(**self.options, name=task.name)(run_here)
        environment = {name: value for name, value in os.environ.items() if name.startswith(("ZOO_", "HF_"))}
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", f"{max(1, int(self.options['num_cpus']))}")
        absolute = Task(task.name, task.arguments, task.log.absolute(), task.needs)
        return ClusterProcess(self.ray, function.remote(absolute, os.getcwd(), environment, stop_file), stop_file)

    def close(self) -> None:
        self.ray.shutdown()


def run_here(task: Task, folder: str, environment: dict[str, str], stop_file: Path) -> int:
    """Run a task on a machine of the cluster; its exit status, negative for a signal."""
    os.chdir(folder)
    # A lost machine takes its tasks with it, at once.
    process = LocalProcess(task, environment, signal.SIGKILL)
    while process.status() is None:
        if stop_file.exists():
            process.stop()
            stop_file.unlink(missing_ok=True)
        time.sleep(POLL)
    status = process.status()
    assert status is not None
    return status
