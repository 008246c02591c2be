"""What a stage of a recipe costs: time by the clock, time of processors, memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.training.step.timing import most_memory


def clocks() -> dict[str, float]:
    """Seconds by the clock, and of processors, by all threads of this process and those it has waited for."""
    return {"spent": time.monotonic(), "spent_cpu": sum(os.times()[:4])}


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float | None]]:
    """Gives a function that tells the most memory used since, in GB: of the GPU, else of this process (Linux)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        # 5: begin anew with the highest resident size (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    yield most_memory
