"""Lightning's DDP strategy, with a visible and interruptible wait for the other processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoo.libraries.cluster import Place, find_place, started_by
from zoo.libraries.peers import Peers
from zoo.libraries.reliance import importing, relies_on

with importing("lightning"):
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


class Meeting(DDPStrategy):
    """place: of this process; say: called with the message that it waits; met: called once all have connected."""

    def __init__(self, place: Place, peers: Peers, say: Callable[[str], None], met: Callable[[], None]):
        # Otherwise its buckets hold every gradient once more.
        super().__init__(gradient_as_bucket_view=True)
        self.place, self.peers, self.say, self.met = place, peers, say, met

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        environment = self.cluster_environment
        if environment is not None and isinstance(self._launcher, _SubprocessScriptLauncher):
            self._launcher = Launcher(environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        options = {} if self.root_device.type == "cpu" else {"device_id": self.root_device}
        started = getattr(self._launcher, "procs", ())
        self.peers.connect(self.place, self.root_device, self.say, started, **options)
        # It finds them connected.
        super().setup_distributed()
        self.met()


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine. Lightning's own kills this one, without a word, when one ends."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


# -- checks --------------------------------------------------------------------------------------------------------


def _probe(kind: type[Meeting]) -> Meeting:
    """The strategy of a process that nobody else has started."""
    place = find_place(devices=1, num_nodes=1)
    strategy = kind(place, Peers(), lambda text: None, lambda: None)
    strategy.accelerator, strategy.parallel_devices = CPUAccelerator(), [torch.device("cpu")]
    strategy.cluster_environment = place.environment
    return strategy


@relies_on("lightning", "DDPStrategy makes its launcher in `_configure_launcher`, and `launch` calls the function.")
def processes_are_started_where_we_start_them() -> None:
    with started_by({}):
        strategy = _probe(Meeting)
        strategy._configure_launcher()
        launcher = strategy.launcher
        assert isinstance(launcher, Launcher), f"the launcher is a {type(launcher).__name__}"
        launcher._call_children_scripts = lambda: None  # type: ignore[method-assign]
        assert launcher.launch(lambda value: value, 3) == 3, "the function was not called"


@relies_on("lightning", "DDPStrategy connects to the other processes in `setup_distributed`, and nowhere else.")
def processes_meet_where_we_wait() -> None:
    met: list[int] = []

    class Probe(Meeting):
        def setup_distributed(self) -> None:
            met.append(self.place.processes)

    with started_by({}):
        _probe(Probe).setup_environment()
    assert met == [1], f"it was called {len(met)} times"
