"""Lightning's Trainer: its strategy, precision, checkpoints and loggers."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.reliance import importing, relies_on

with importing("lightning"):
    import lightning
    from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

__all__ = ["Callback", "CheckpointIO"]

LOGGERS = ("CSVLogger", "TensorBoardLogger", "WandbLogger", "MLFlowLogger")


def step_arithmetic(trainer: Any) -> contextlib.AbstractContextManager[Any]:
    """The context with the precision of the steps."""
    return trainer.precision_plugin.forward_context()


def without_exchange(trainer: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which gradients accumulate in this process without being exchanged with the others."""
    wrapped = trainer.strategy.model
    return wrapped.no_sync() if hasattr(wrapped, "no_sync") else contextlib.nullcontext()


def same_everywhere(trainer: Any, value: Any) -> Any:
    """The first process's value, on all processes."""
    return trainer.strategy.broadcast(value)


def largest_of_all(trainer: Any, value: int) -> int:
    """The largest value of all processes."""
    if trainer.world_size == 1:
        return value
    mine = torch.tensor(float(value), device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(mine, reduce_op="max"))


def started_by_this(trainer: Any) -> Sequence[Any]:
    """The processes that this one has started, of ranks that follow its own."""
    return getattr(trainer.strategy.launcher, "procs", ())


def kill_others(trainer: Any) -> None:
    """End the processes that this one started, which would wait for it at their next exchange."""
    for process in started_by_this(trainer):
        process.kill()


def forget_optimizers(trainer: Any) -> None:
    """Free the memory of gradients and of the optimizers' state, when training is over."""
    for optimizer in trainer.optimizers:
        optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)


def logger_class(name: str) -> Any:
    """A logger's class by its name, one of `LOGGERS`."""
    with importing("lightning"):
        from lightning.pytorch import loggers

        return getattr(loggers, name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's banners and hints."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


# -- checks --------------------------------------------------------------------------------------------------------


class _Files(CheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save({**checkpoint, "own": checkpoint["own"] + 1}, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


class _Loader:
    """Four batches, with a position."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        while self.position < len(self):
            self.position += 1
            yield torch.full((1, 2), float(self.position))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class _Module(lightning.LightningModule):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.layer = torch.nn.Linear(2, 1)
        self.events = events

    def training_step(self, batch: Tensor, index: int) -> None:
        self.events.append(f"step {int(batch[0, 0])}")
        optimizer: Any = self.optimizers()
        with without_exchange(self.trainer):
            self.manual_backward(self.layer(batch).sum())
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "bias" in k}
        checkpoint["own"] = 7

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.events.append(f"own {checkpoint['own']}, weights {', '.join(checkpoint['state_dict'])}")

    def on_train_start(self) -> None:
        with step_arithmetic(self.trainer):
            low = torch.nn.functional.linear(torch.ones(1, 2), self.layer.weight).dtype
        self.events.append(f"start in {low}")


class _Saver(Callback):
    def __init__(self, file: Path | None):
        self.file, self.calls = file, 0

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.calls += 1
        if self.file is not None and self.calls == 2:
            trainer.save_checkpoint(same_everywhere(trainer, str(self.file)))
            trainer.should_stop = True


def _fit(folder: str, saver: _Saver, checkpoint: Path | None) -> tuple[list[str], Any]:
    events: list[str] = []
    module = _Module(events)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, precision="bf16-mixed", logger=False, callbacks=[saver],
        plugins=[_Files()], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, _Loader(), ckpt_path=checkpoint)
    return events, trainer


@cache
def _stopped_and_resumed() -> tuple[list[str], list[str], int]:
    """The events of four steps, stopped after the second with a checkpoint, and resumed from it."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "checkpoint"
        first, _ = _fit(folder, _Saver(file), None)
        saver = _Saver(None)
        second, trainer = _fit(folder, saver, file)
        kill_others(trainer)
        assert largest_of_all(trainer, 3) == 3, "the largest value of one process is not its value"
    return first, second, saver.calls


@relies_on("lightning", "`fit` calls training_step once per batch, and stops after the step that sets should_stop.")
def a_step_is_a_batch() -> None:
    steps = [event for event in _stopped_and_resumed()[0] if event.startswith("step")]
    assert steps == ["step 1", "step 2"], f"with four batches it ran {', '.join(steps)} before it stopped"


@relies_on("lightning", "A custom CheckpointIO writes and reads checkpoints, including what hooks add to them.")
def checkpoints_go_through_our_files() -> None:
    second = _stopped_and_resumed()[1]
    assert second[0] == "own 8, weights layer.bias", f"the first event of a resumed fit is: {second[0]}"


@relies_on("lightning", "The `state_dict` of a loader and of a callback is saved, and restored before the first step.")
def loaders_and_callbacks_go_on() -> None:
    _, second, calls = _stopped_and_resumed()
    steps = [event for event in second if event.startswith("step")]
    assert steps == ["step 3", "step 4"] and calls == 4, (
        f"after resuming it ran {', '.join(steps)}, with {calls} calls in total"
    )


@relies_on("lightning", "`precision_plugin.forward_context` has the precision of the steps, before the first one.")
def the_arithmetic_of_the_steps() -> None:
    events = _stopped_and_resumed()[0]
    assert events[0] == "start in torch.bfloat16", f"with bf16-mixed it is: {events[0]}"


@relies_on("lightning", "The launcher of several processes lists them in `procs`.")
def started_processes_are_listed() -> None:
    from lightning.pytorch.plugins.environments import LightningEnvironment

    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    assert launcher.procs == [], f"before it starts them, procs is {launcher.procs}"


@relies_on("lightning", f"Lightning has the loggers {', '.join(LOGGERS)}.", everywhere=False)
def loggers_have_their_names() -> None:
    from lightning.pytorch import loggers

    missing = [name for name in LOGGERS if not hasattr(loggers, name)]
    assert not missing, f"no {', '.join(missing)}"
