"""What a training step costs its process: both sides of the comparison count it with this file."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any


class Clock:
    """Notes processor time (user and system), wall time and peak memory at the end of every optimizer step.

    The first step is left out of the means: it allocates the optimizer's state and warms every library up. What
    comes before it (imports, loading, tokenising) and after the last one (saving) is not in the means either.
    """

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.losses: list[float] = []
        self.trained: list[int] = []
        self.read: list[int] = []
        self.peak_bytes = 0

    def step_ended(self) -> None:
        self.cpu.append(cpu_seconds())
        self.wall.append(time.perf_counter())
        # Linux counts kilobytes.
        self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def write(self, file: Path, **facts: Any) -> None:
        """Means over all steps but the first, and everything else as it was noted."""
        steps = len(self.cpu) - 1
        result = {
            "cpu_per_step": (self.cpu[-1] - self.cpu[0]) / steps,
            "wall_per_step": (self.wall[-1] - self.wall[0]) / steps,
            "peak_bytes": self.peak_bytes,
            "losses": self.losses,
            "trained_tokens": self.trained,
            "read_tokens": self.read,
            **facts,
        }
        file.write_text(json.dumps(result), encoding="utf-8")


def cpu_seconds() -> float:
    """User and system time of this process so far, over all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
