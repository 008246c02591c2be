"""Long output of runs goes to a file; during long stages, a line is shown from time to time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console

QUIET_SECONDS = 10.0
"""A stage that takes less shows only its results."""


class Log(io.TextIOBase):
    """A stream to `file` that also shows its newest line if nothing was shown for a while."""

    def __init__(self, file: TextIO, show: Callable[[str], None]):
        self.file, self.show = file, show
        self.begin()

    def begin(self) -> None:
        """Start the log of a new stage."""
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
