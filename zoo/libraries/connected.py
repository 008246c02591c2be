"""Processes that connect before anything is loaded, and Lightning's strategy for models that they share out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from zoo.libraries import sharding
from zoo.libraries.cluster import Place
from zoo.libraries.meeting import Launcher
from zoo.libraries.peers import Peers, in_background
from zoo.libraries.reliance import importing
from zoo.processes import begin_exchange

with importing("lightning"):
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
    from lightning.pytorch.strategies import ModelParallelStrategy, Strategy


class Connected:
    """The processes of a run, started and connected; each of them then goes through all stages of the run.

    say: called with the message that this process waits; lost: with the ranks of processes that have ended;
    tensor_parallel, fsdp: as of `make_mesh`.
    """

    def __init__(
        self, place: Place, devices: int, num_nodes: int, device: torch.device, say: Callable[[str], None],
        tensor_parallel: int, fsdp: bool,
    ):  # fmt: skip
        self.place, self.device, self.say = place, device, say
        self.axes = tensor_parallel, fsdp
        self.peers = Peers()
        self.lost: Callable[[list[int]], None] = lambda gone: os._exit(1)
        self._before = dict(os.environ)
        self.launcher = Launcher(place.environment, devices, num_nodes)

    def connect(self) -> None:
        """Start the other processes of this machine, if nobody else does, and wait for all."""
        if not self.place.environment.creates_processes_externally:
            self.launcher._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.launcher.num_processes)
        self.peers.connect(self.place, self.device, self.say, self.launcher.procs)
        # Its groups are made in C++, and wait for a process that was stopped meanwhile.
        in_background(self._make_mesh, lambda seconds: None)
        self.peers.meet(lambda gone: self.lost(gone))

    def _make_mesh(self) -> None:
        if self.device.type == "cuda":
            # The current device belongs to the thread.
            torch.cuda.set_device(self.device)
        sharding.make_mesh(self.device, self.place.processes, *self.axes)

    @property
    def children(self) -> list[Any]:
        """The processes that this one has started."""
        return list(self.launcher.procs)

    def close(self) -> None:
        """The end in any case; the environment is as before."""
        self.peers.close(self.launcher.procs)
        sharding.forget_mesh()
        os.environ.clear()
        os.environ.update(self._before)


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for processes that have connected and models that are shared out already.

    Checkpoints go through our files: each process writes the parts that it holds, from which any number of processes
    reads its own. met: called once, before training.
    """

    def __init__(self, connected: Connected, met: Callable[[], None], offload: bool):
        processes, together = connected.place.processes, connected.axes[0]
        super().__init__(data_parallel_size=processes // together, tensor_parallel_size=together)
        self.connected, self.met, self.offload = connected, met, offload

    def _configure_launcher(self) -> None:
        # It starts nobody: they are here.
        self.connected.launcher._call_children_scripts = lambda: None  # type: ignore[method-assign]
        self._launcher = self.connected.launcher

    def setup_environment(self) -> None:
        Strategy.setup_environment(self)
        self.set_world_ranks()
        self._device_mesh = sharding.current_mesh()
        self.met()

    def setup(self, trainer: Any) -> None:
        assert self.accelerator is not None and self.lightning_module is not None
        self.accelerator.setup(trainer)
        if self.offload:
            # What was offloaded stays where it is.
            self.lightning_module._device = self.root_device
        else:
            self.model_to_device()
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        begin_exchange()
        return super().reduce(tensor, group, reduce_op)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        begin_exchange()
        return super().broadcast(obj, src)

    def barrier(self, name: str | None = None) -> None:
        begin_exchange()
        super().barrier(name)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters()
        return sharding.parts_of((name, p) for name, p in named if p.requires_grad)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return sharding.optimizer_state(getattr(optimizer, "optimizer", optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        sharding.fill(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            sharding.load_optimizer_state(optimizer, state)
