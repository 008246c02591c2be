"""The most that is read of what a stranger wrote, so that no file takes all memory or never ends (docs/security.md)."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from zoo.errors import ZooError

ROW = 16 * 2**20
"""Bytes of a line, and characters of the texts of a row."""
COLUMNS = 10_000
"""Columns of a row, and keys of an object in it."""
DEPTH = 64
"""Lists and objects inside each other."""
EXPANSION, UNCOUNTED = 200, 64 * 2**20
"""A compressed file may grow to so many times its size, and to this many bytes whatever its size."""
DOCUMENT = 2 * 2**30
"""Bytes of a .json file, which is read as a whole."""
ANSWER = 64 * 2**20
"""Bytes of the answer of a server."""
YAML_BYTES, YAML_VALUES = 2**20, 100_000
"""Bytes of a YAML file, and its values with every alias written out."""
FILES = 100_000
"""Files and folders below a folder of data."""
SEEDS = 10_000
"""Seeds of a command."""
STAGES = 1000
"""Stages of a sweep of a recipe."""
EXPRESSION = 10_000
"""Characters of a reward's expression, and of a spelled name with options."""
TEMPLATE_SECONDS = 10
"""Seconds of CPU time in which a chat template writes one conversation."""
TEMPLATE_BYTES = 2**30
"""Bytes of memory that a chat template may take to write its first conversation."""


TOO_DEEP = f"holds lists or objects inside each other, more than {DEPTH} deep"


def size(count: int) -> str:
    """`16 MiB`."""
    power = 30 if count >= 2**30 else 20
    return f"{count / 2**power:g} {'GiB' if power == 30 else 'MiB'}"


def lines_of(file: IO[Any], path: Path | str, number: int = 0) -> Iterator[Any]:
    """The lines of a file, of which so many were read before. Raises ZooError for one that is longer than ROW."""
    while line := file.readline(ROW + 1):
        number += 1
        if len(line) > ROW:
            raise ZooError(
                f"{path}:{number}: the line is longer than {size(ROW)}, the most that a row may have.",
                "Check that the file has line breaks; shorten or remove this line.",
            )
        yield line


def most_of(size: int) -> int:
    """The most bytes that a compressed file of so many bytes may hold."""
    return UNCOUNTED + EXPANSION * size


class _Counted(io.RawIOBase):
    """The bytes of a decompressed file. Raises ZooError where they are too many for the file that they come from."""

    def __init__(self, file: IO[bytes], path: Path | str, size: int):
        self.file, self.path, self.count = file, path, 0
        self.most = most_of(size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.file.read(len(buffer))
        self.count += len(part)
        if self.count > self.most:
            raise too_large(self.path, f"it grows to more than {EXPANSION} times its size")
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.file.close()
        super().close()


def counted(file: IO[bytes], path: Path | str, size: int) -> IO[bytes]:
    """A decompressed file that may not grow without end. path, size: of the compressed file."""
    return cast(IO[bytes], io.BufferedReader(_Counted(file, path, size), 2**20))


def whole(file: IO[bytes], path: Path) -> bytes:
    """All bytes of a file. Raises ZooError for more than DOCUMENT."""
    content = bytearray()
    # In parts: a file takes the memory of all that it is asked for before it reads.
    while part := file.read(2**20):
        content += part
        if len(content) > DOCUMENT:
            raise too_large(path, f"a .json file is read as a whole, and may have {size(DOCUMENT)}")
    return bytes(content)


def too_large(path: Path | str, why: str) -> ZooError:
    return ZooError(f"{path} is too large to be read: {why}.", "Write it as .jsonl or .parquet, in several files.")


def excess(row: dict[str, Any]) -> str:
    """What a row has too much of, in words; empty if nothing."""
    if len(row) > COLUMNS:
        return f"has {len(row):,} columns; at most {COLUMNS:,} are read"
    level: list[Any] = list(row.values())
    characters = sum(len(value) for value in level if isinstance(value, str))
    for _ in range(DEPTH):
        level = [inner for value in level if isinstance(value, dict | list) for inner in _inside(value)]
        if not level:
            return "" if characters <= ROW else f"has {characters:,} characters; at most {ROW:,} are read"
        characters += sum(len(value) for value in level if isinstance(value, str))
    return TOO_DEEP


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in code that takes more CPU time. It is watched in the main thread only."""
    if not _can_be_watched():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _too_slow(seconds)

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Watch:
    """Raises TimeoutError in a step that takes more CPU time. `armed` lets many short steps share one timer.

    A timer for each step costs more than rendering a short text. Like `within`, it watches the main thread only.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._period = min(1.0, seconds / 10)
        self._ticks = 0
        self._began: int | None = None
        self._armed = False

    def step(self) -> contextlib.AbstractContextManager[Any]:
        """The limit for one step, which may take up to a tenth more where the watch is armed."""
        return self if self._armed and _can_be_watched() else within(self.seconds)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Within it, steps share a timer."""
        if self._armed or not _can_be_watched():
            yield
            return
        before = signal.signal(signal.SIGVTALRM, self._tick)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._period, self._period)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self._began is not None and (self._ticks - self._began - 1) * self._period >= self.seconds:
            raise _too_slow(self.seconds)

    def __enter__(self) -> None:
        self._began = self._ticks

    def __exit__(self, *error: object) -> None:
        self._began = None


def _can_be_watched() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGVTALRM")


def _too_slow(seconds: float) -> TimeoutError:
    return TimeoutError(f"it takes more than {seconds:g} s of CPU time")


@contextlib.contextmanager
def within_memory(most: int) -> Iterator[None]:
    """Raise MemoryError in code that takes this many bytes more. All threads count; elsewhere than on Linux, none."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits = resource.getrlimit(resource.RLIMIT_AS)
        room = pages * resource.getpagesize() + most
        resource.setrlimit(resource.RLIMIT_AS, (room if limits[0] < 0 else min(room, limits[0]), limits[1]))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
