"""What a stage of a recipe costs: time by the clock, time of processors, memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def clocks() -> dict[str, float]:
    """Seconds by the clock, and of processors, by all threads of this process and those it has waited for."""
    return {"spent": time.monotonic(), "spent_cpu": sum(os.times()[:4])}


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float | None]]:
    """Gives a function that tells the most memory used since, in GB: of the GPU, else of this process (Linux)."""
    import torch

    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / 1e9
        return
    with contextlib.suppress(OSError):
        # 5: begin anew with the highest resident size (proc(5)).
        reset.write_text("5")

    def peak() -> float | None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)

    yield peak
