"""Training runs on one process and on several, as torchrun starts them: each process is a fresh fork.

The forks come from a server that has imported everything and computed nothing, so that each of them starts at once, and
may use autograd and torch.distributed whatever the calling process has done. Only the CPU is used.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
import re
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo.contract.algorithm import Algorithm
from zoo.libraries import reliance
from zoo.libraries.quiet import quiet_libraries
from zoo.options.config import resolve
from zoo.processes import end_with_parent, my_place
from zoo.rollout.writer import Writer
from zoo.runs import Run
from zoo.terminal import Console
from zoo.testing.steps import Failed, NotApplicable
from zoo.testing.suite import explain, load
from zoo.training.execution import Execution
from zoo.values.types import Answer

LIMIT = 120.0
"""Seconds after which a run hangs."""
PATIENCE = 5.0
"""Seconds that the other processes of a run have to end by themselves after one has failed."""
LIBRARIES = ("torch", "transformers", "lightning")
"""Those that each fork would check again."""
METHOD = "forkserver"
PRELOADED = [
    __name__, "zoo.api", "zoo.libraries.connected", "zoo.libraries.optimizers", "zoo.libraries.trainer",
    "zoo.models.loading", "zoo.report.run_page", "pydantic.dataclasses", "torch.distributed.tensor",
    "torch.nn.parallel", "transformers.models.llama.modeling_llama",
]  # fmt: skip
"""What the server imports."""
OPTIONS: dict[str, Any] = {
    "precision": "32-true", "eval_fraction": 0.0, "schedule": "constant", "warmup": 0.0, "batch_size": 4, "lr": 1e-3,
    # Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
    "optimizer": "adamw(eps=1e-5)", "epochs": 4.0, "score": "none", "accelerator": "cpu",
    # Micro-batches so small that the processes have different numbers of them.
    "micro_tokens": 60,
}  # fmt: skip
"""Those of a run that is to be the same on any number of processes."""
ONLINE = {"reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "max_new_tokens": 6}
"""Further ones of an algorithm with rollouts."""


def launched(size: int) -> list[Mapping[str, str]]:
    """What torchrun tells each of its processes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "zoo", "WORLD_SIZE": str(size), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


@dataclass(frozen=True)
class Order:
    """A run to make. algorithm: a name, ./file.py:Class, or a class that can be imported; folder: of all runs.

    answers: the run, by its name or path, whose answers are given to this one, instead of new ones; "" for none.
    """

    algorithm: str | type[Algorithm]
    options: Mapping[str, Any]
    folder: Path
    name: str
    processes: int = 1
    answers: str = ""

    def file(self, rank: int, ending: str) -> Path:
        return self.folder / f"{self.name}-{rank}.{ending}"


@dataclass(frozen=True)
class Made:
    """A run that was made, with what each process had at the end.

    states: what the algorithm saves; attributes: all that it has, as text; weights: all that is trained, none for a run
    whose models were sharded.
    """

    run: Run
    states: list[dict[str, Any]]
    attributes: list[dict[str, str]]
    weights: list[dict[str, Tensor]]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.run.log_history if "loss" in row]

    @property
    def model(self) -> dict[str, Tensor]:
        """The weights in model/."""
        return {name: value for file in self.run.model_path.glob("*.safetensors") for name, value in
                load_file(file).items()}  # fmt: skip


def make(order: Order) -> Made:
    """Make a run.

    Raises Failed with the message of a process that failed, or where they do not end; NotApplicable where no other
    process can make it.
    """
    _refuse(order)
    for library in LIBRARIES:
        reliance.require(library)
    context: Any = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload(PRELOADED)
    places = launched(order.processes) if order.processes > 1 else [{}]
    children = [context.Process(target=_work, args=(order, rank, place, Path.cwd()), daemon=True)
                for rank, place in enumerate(places)]  # fmt: skip
    for child in children:
        child.start()
    _wait(order, children)
    kept = [torch.load(order.file(rank, "pt"), weights_only=True) for rank in range(order.processes)]
    ends = {name: [end[name] for end in kept if end[name] is not None] for name in kept[0]}
    return Made(Run(order.folder / order.name), **ends)


def _refuse(order: Order) -> None:
    if METHOD not in multiprocessing.get_all_start_methods():
        raise NotApplicable("this system cannot fork")
    try:
        pickle.dumps(order.algorithm)
    except (pickle.PicklingError, AttributeError) as error:
        name = getattr(order.algorithm, "__name__", order.algorithm)
        raise NotApplicable(f"{name} cannot be imported in another process: {error}") from error


def _wait(order: Order, children: Sequence[Any]) -> None:
    """Until all have ended. Raises Failed."""
    end = time.monotonic() + LIMIT
    first = None
    while any(child.exitcode is None for child in children) and time.monotonic() < end:
        if first is None and (first := next((rank for rank, c in enumerate(children) if c.exitcode), None)) is not None:
            end = min(end, time.monotonic() + PATIENCE)
        time.sleep(0.01)
    hung = first is None and any(child.exitcode is None for child in children)
    for child in children:
        child.kill()
        child.join()
    if hung:
        raise Failed(
            f"The run on {order.processes} processes has not ended after {LIMIT:.0f} s. One may wait for an exchange "
            "that another never makes: leave exchanges to the core, as what `measure` returns."
        )
    if any(child.exitcode for child in children):
        raise Failed(_complaint(order, first))


def _complaint(order: Order, first: int | None) -> str:
    """What a process said that failed: the one that failed first, if it said something."""
    ranks = sorted(range(order.processes), key=lambda rank: rank != first)
    said = [file.read_text(encoding="utf-8") for rank in ranks if (file := order.file(rank, "error")).is_file()]
    return next(iter(said), "A process ended without a message.")


# -- in a fork -----------------------------------------------------------------------------------------------------


def _work(order: Order, rank: int, place: Mapping[str, str], here: Path) -> None:
    """The life of a fork. Its messages go to a file."""
    end_with_parent()
    os.chdir(here)
    os.environ |= {**place, "ZOO_CACHE": str(order.folder / f"{order.name}-cache"), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with order.file(rank, "log").open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            _train(order, rank)
        except BaseException as error:
            stream.write(traceback.format_exc())
            if isinstance(error, Exception):
                order.file(rank, "error").write_text(explain(error), encoding="utf-8")
            stream.flush()
            os._exit(1)


def _train(order: Order, rank: int) -> None:
    quiet_libraries()
    # `make` has looked at them.
    reliance.broken = lambda *which, **how: []  # type: ignore[assignment]
    name, cls = load(order.algorithm)
    chosen = {**OPTIONS, **(ONLINE if cls.online() else {}), **order.options, "out": str(order.folder)}
    algorithm = cls()
    resolved = resolve(name, cls, [("options", {**chosen, "name": order.name})])
    execution = Execution(resolved, algorithm, Console(quiet=True))
    with answers_of(order):
        execution.go()
    assert execution.fitting is not None
    trained = [(name, p) for name, p in execution.fitting.module.named_parameters() if p.requires_grad]
    weights = None if execution.together else {name: p.detach().clone() for name, p in trained}
    # Addresses differ in any case.
    attributes = {name: re.sub("0x[0-9a-f]+", "", repr(value)) for name, value in vars(algorithm).items()}
    end = {"states": algorithm.state(), "attributes": attributes, "weights": weights}
    torch.save(end, order.file(rank, "pt"))


Key = tuple[int, int, int]
"""Iteration, call in it, and prompt in the call."""


@contextmanager
def answers_of(order: Order) -> Iterator[None]:
    """A run on one process writes its answers down; one with `order.answers` is given those of another run."""
    kept: dict[Key, list[Answer]] = {}
    if order.answers:
        file = dataclasses.replace(order, name=order.answers).file(0, "answers")
        kept |= {key: [Answer(**one) for one in some] for key, some in torch.load(file, weights_only=True).items()}
    drawn, write = Writer._drawn, Writer._write
    starts = [0]

    def generated(writer: Any, prompts: Sequence[Any], *rest: Any, **how: Any) -> Any:
        rank, processes = my_place()
        starts[0] = len(prompts) * rank // processes
        return write(writer, prompts, *rest, **how)

    def recalled(writer: Any, prompts: Sequence[Any], ids: list[Tensor], *rest: Any) -> list[Answer]:
        keys = [(writer.iteration, writer.calls, starts[0] + i) for i in range(len(ids))]
        known = [kept.get(key, []) for key in keys]
        if all(some and torch.equal(some[0].prompt, of.cpu()) for some, of in zip(known, ids, strict=True)):
            return [answer for some in known for answer in some]
        written = drawn(writer, prompts, ids, *rest)
        each = len(written) // len(ids)
        kept.update({key: written[i * each : (i + 1) * each] for i, key in enumerate(keys)})
        return written

    with mock.patch.object(Writer, "_write", generated), mock.patch.object(Writer, "_drawn", recalled):
        yield
    if not order.answers and order.processes == 1:
        torch.save({key: [vars(one) for one in some] for key, some in kept.items()}, order.file(0, "answers"))
