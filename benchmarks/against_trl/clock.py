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


class RolloutClock(Clock):
    """The same for online training, with the part of each iteration in which answers are generated apart."""

    def __init__(self) -> None:
        super().__init__()
        self.generation: list[tuple[float, float]] = []
        """CPU and wall seconds of each iteration's generation."""
        self.generated: list[int] = []
        """Tokens of its answers, end-of-turn tokens included."""
        self.lengths: list[list[int]] = []
        self._spent = (0.0, 0.0)
        self._lengths: list[int] = []

    def timed(self, generate: Any, lengths_of: Any) -> Any:
        """`generate`, with what it costs and how long its answers are noted."""

        def noted(*arguments: Any, **options: Any) -> Any:
            cpu, wall = cpu_seconds(), time.perf_counter()
            result = generate(*arguments, **options)
            self._spent = (self._spent[0] + cpu_seconds() - cpu, self._spent[1] + time.perf_counter() - wall)
            self._lengths += lengths_of(result)
            return result

        return noted

    def step_ended(self) -> None:
        super().step_ended()
        self.generation.append(self._spent)
        self.generated.append(sum(self._lengths))
        self.lengths.append(self._lengths)
        self._spent, self._lengths = (0.0, 0.0), []

    def write(self, file: Path, **facts: Any) -> None:
        """Means over all iterations but the first."""
        measured = self.generation[1:]
        cpu, wall = (sum(spent[k] for spent in measured) / len(measured) for k in (0, 1))
        generated = {"generation_cpu": cpu, "generation_wall": wall, "generated_tokens": self.generated}
        super().write(file, **generated, lengths=self.lengths, **facts)
