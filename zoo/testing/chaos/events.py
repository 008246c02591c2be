"""The file events of a process, seen from inside: opening, writing, flushing, renaming, removing, truncating.

Python's audit hooks tell of most of them; writes and flushes are seen by taking the place of `open`, `os.write` and
`os.fsync`; what writes in native code (safetensors, torch) is seen before and after. At a chosen event the process
kills itself, in the middle of a write where the event is one, or the disk is full from then on.
"""

from __future__ import annotations

import builtins
import errno
import fnmatch
import functools
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.testing.chaos.phases import Teller

AUDITED = {
    "open": "open", "os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir",
    "shutil.rmtree": "rmtree", "os.truncate": "truncate", "os.link": "link", "os.symlink": "symlink",
}  # fmt: skip
WRITES = ("write", "native write")
"""Events in which a file may be left half-written, and which a full disk stops."""


class FileEvents:
    """Tells the file events below a folder. at: (phase, step, number) of the event at which something happens.

    files: a glob that paths below the folder must match; full: the disk is full from that event on, else it kills.
    """

    def __init__(
        self, teller: Teller, folder: Path, files: str, at: tuple[str, int, int] | None = None, full: bool = False
    ):
        self.teller, self.folder, self.files, self.at, self.full = teller, str(folder), files, at, full
        self.is_full = False
        self._counted: Counter[tuple[str, int]] = Counter()
        self._inside = False

    def install(self) -> None:
        """From now on, for the rest of this process: audit hooks cannot be taken back."""
        self._watch_writes()
        self._watch_native_writes()
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._before(getattr(os, name), "fsync"))
        sys.addaudithook(self._audit)

    # -- what happens at an event --------------------------------------------------------------------------------

    def happens(self, what: str, path: Any, half: Callable[[], Any] = lambda: None) -> None:
        """An event; half: leaves a write half done. Raises OSError where the disk is full."""
        file = self._below(path)
        if file is None:
            return
        place = self.teller.place
        number = self._counted[place]
        self._counted[place] += 1
        self.teller.happened(number, what, file)
        if (*place, number) == self.at:
            if not self.full:
                half()
                os.kill(os.getpid(), signal.SIGKILL)
            self.is_full = True
        if self.is_full and what in WRITES:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _below(self, path: Any) -> str | None:
        """A path relative to the folder, None for one that is not watched."""
        absolute = os.path.join(os.getcwd(), os.fspath(path)) if isinstance(path, str | os.PathLike) else ""
        if not absolute.startswith(self.folder + os.sep):
            return None
        file = absolute[len(self.folder) + 1 :]
        return file if fnmatch.fnmatch(file, self.files) else None

    # -- what is seen ----------------------------------------------------------------------------------------------

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        what = AUDITED.get(event)
        if what is None or self._inside:
            return
        if what == "open" and not _for_writing(arguments[2]):
            return
        self._inside = True
        try:
            self.happens(what, _final(arguments) if what == "rename" else _resolved(what, arguments))
        finally:
            self._inside = False

    def _before(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(descriptor: Any, *rest: Any) -> Any:
            self.happens(what, _path_of(descriptor if isinstance(descriptor, int) else descriptor.fileno()))
            return function(descriptor, *rest)

        return watched

    def _watch_writes(self) -> None:
        watched = functools.partial(_open, original=builtins.open, events=self)
        builtins.open = io.open = watched  # type: ignore[assignment]
        write = os.write

        def counted(descriptor: int, data: Any) -> int:
            self.happens("write", _path_of(descriptor), lambda: write(descriptor, memoryview(data)[: len(data) // 2]))
            return write(descriptor, data)

        os.write = counted  # type: ignore[assignment]

    def _watch_native_writes(self) -> None:
        """safetensors and torch write in native code: half of what they wrote is what a kill in the middle leaves."""
        import safetensors.torch
        import torch

        safetensors.torch.serialize_file = self._native(safetensors.torch.serialize_file, 1)  # type: ignore[attr-defined]
        torch.save = self._native(torch.save, 1)

    def _native(self, function: Callable[..., Any], position: int) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            path: Any = args[position] if len(args) > position else kwargs.get("filename", kwargs.get("f"))

            def half() -> None:
                function(*args, **kwargs)
                os.truncate(path, os.path.getsize(path) // 2)

            self.happens("native write", path, half)
            return function(*args, **kwargs)

        return watched


class _Watched(io.FileIO):
    """A file whose writes are events."""

    events: FileEvents

    def write(self, data: Any) -> int:
        self.events.happens("write", self.name, lambda: super(_Watched, self).write(memoryview(data)[: len(data) // 2]))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.events.happens("truncate", self.name)
        return super().truncate(size)


def _open(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Any = None, *, original: Any, events: FileEvents,
) -> Any:  # fmt: skip
    """`open`, with a watched file where one is written below the folder."""
    if not set(mode) & set("wax+") or isinstance(file, int) or events._below(file) is None:
        return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _Watched(file, "".join(letter for letter in mode if letter not in "tb"), closefd, opener)
    raw.events = events
    if "b" in mode and buffering == 0:
        return raw
    buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text


def _for_writing(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _final(arguments: tuple[Any, ...]) -> Any:
    """Of the two names of a file that is renamed the one that it is known by."""
    return next((path for path in arguments[:2][::-1] if not os.path.basename(path).startswith(".")), arguments[1])


def _resolved(what: str, arguments: tuple[Any, ...]) -> Any:
    """A path; with a descriptor it is relative to its folder: so are the files of whole trees removed."""
    path, folder = arguments[0], arguments[-1] if what in ("remove", "rmdir", "mkdir") else -1
    if isinstance(folder, int) and folder >= 0 and isinstance(path, str) and not os.path.isabs(path):
        return os.path.join(_path_of(folder), path)
    return path


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
