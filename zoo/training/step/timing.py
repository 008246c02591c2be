"""Time of a run by part (writing answers, scoring them, whole rollouts, optimizer steps), and its memory.

Apart from the metrics, which are the same for a run that was resumed; the clock is not. Times are those of this
process, tokens those of all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRAINING, ROLLOUT, GENERATION, REWARD = "training", "rollout", "generation", "reward"
"""Optimizer steps; rollouts; within these, writing answers, and scoring them (judges included)."""


class Timing:
    """Seconds and tokens by part, since the run began and since the last `take`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, float] = {}
        self.cpu_seconds = 0.0
        """Of the optimizer steps, all threads of the process."""
        self._taken: tuple[dict[str, float], dict[str, float]] = ({}, {})

    def add(self, part: str, seconds: float, tokens: float = 0) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self.tokens[part] = self.tokens.get(part, 0.0) + tokens

    @contextlib.contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part."""
        clock = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - clock)

    def take(self) -> dict[str, float]:
        """`seconds/PART` and `speed/PART` (tokens a second) since the last call; `memory_gb`, the peak so far."""
        memory = most_memory()
        times: dict[str, float] = {} if memory is None else {"memory_gb": memory}
        for part in self.seconds:
            seconds, tokens = (
                now[part] - then.get(part, 0.0) for now, then in zip(self._now, self._taken, strict=True)
            )
            times |= {f"seconds/{part}": seconds} if seconds else {}
            times |= {f"speed/{part}": tokens / seconds} if seconds and tokens else {}
        self._taken = self._now
        return times

    @property
    def _now(self) -> tuple[dict[str, float], dict[str, float]]:
        return dict(self.seconds), dict(self.tokens)

    def summary(self) -> dict[str, float]:
        """The content of timing.json; `seconds` are those of the optimizer steps."""
        facts = {"cpu_seconds": self.cpu_seconds}
        for part, value in self.seconds.items():
            facts["seconds" if part == TRAINING else f"{part}_seconds"] = value
            if self.tokens[part] and value:
                facts[f"{part}_tokens_per_second"] = self.tokens[part] / value
        if self.tokens.get(GENERATION):
            facts["generated_tokens"] = self.tokens[GENERATION]
        return facts

    def state(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tokens": self.tokens, "cpu_seconds": self.cpu_seconds}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seconds, self.tokens, self.cpu_seconds = state["seconds"], state["tokens"], state["cpu_seconds"]
        self._taken = self._now


def most_memory() -> float | None:
    """Peak memory in 10⁹ bytes: of the GPU if one is used, else of this process (Linux)."""
    import torch

    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return used / 1e9
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)
