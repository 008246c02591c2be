"""The costs of a recipe's stage: wall-clock time, processor time, memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.training.step.timing import most_memory


def clocks() -> dict[str, float]:
    """Wall-clock seconds, and processor seconds of all threads of this process and its ended children."""
    return {"spent": time.monotonic(), "spent_cpu": sum(os.times()[:4])}


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float | None]]:
    """Gives a function that returns the peak memory since then, in GB: of the GPU, else of this process (Linux)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        # 5 resets the peak resident size (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    yield most_memory
