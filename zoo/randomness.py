"""The sources of random numbers of this process: seeded, taken down as a checkpoint keeps them, and restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch

BETWEEN_PROCESSES = 7_000_003
"""How far the seeds of two processes of a run lie apart."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    # For each kind of device that is not there, torch.manual_seed keeps a stack trace: longer than a tiny model's step.
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)


def part_ways(seed: int, rank: int) -> None:
    """From here on processes draw other numbers than each other; the first one goes on as if it were alone."""
    if rank:
        seed_everything(seed + rank * BETWEEN_PROCESSES)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Whatever is drawn in here, behind it the numbers from before go on."""
    state = rng_state()
    try:
        yield
    finally:
        restore_rng(state)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of this seed; behind it those from before go on."""
    with apart():
        seed_everything(seed)
        yield


def rng_state() -> dict[str, Any]:
    """The state of every random source, in types that load without unpickling code."""
    numpy_state: Any = numpy.random.get_state()
    name, keys, position, has_gauss, cached = numpy_state
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Go on drawing where `rng_state` was taken."""
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
