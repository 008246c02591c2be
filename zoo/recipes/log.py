"""What runs say at length goes to a file; of what takes long, a line now and then to whoever waits."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console

QUIET_SECONDS = 10.0
"""A stage that takes less says nothing but its results."""


class Log(io.TextIOBase):
    """A stream into `file` that shows its newest line when nothing was shown for a while."""

    def __init__(self, file: TextIO, show: Callable[[str], None]):
        self.file, self.show = file, show
        self.begin()

    def begin(self) -> None:
        """A new stage begins."""
        self.shown = time.monotonic()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.file.write(text)
        line = text.strip()
        if line and time.monotonic() - self.shown > QUIET_SECONDS:
            self.shown = time.monotonic()
            self.show(f"  {line.splitlines()[-1]}")
        return len(text)

    def flush(self) -> None:
        self.file.flush()

    def console(self) -> Console:
        return Console(file=self, width=120, force_terminal=False)  # type: ignore[arg-type]
