"""The files of a source that is read as it comes: found by their names, and each read from any place on.

A source is a file, a folder, a pattern such as `shards/*.jsonl`, an address that fsspec opens (`s3://bucket/*.parquet`),
a data set of the hub, or rows of a Python program that can be read again. A file is told from a changed one by its size
and time of change, or what a server says in their place: reading all of it would take as long as the run.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from zoo.data.sources import file_type, folders, given, is_named, is_on_hub, no_file_fits, refuse_dead_link
from zoo.data.sources.hub import stream_hub
from zoo.data.sources.lines import COMPRESSED, Line, RawLine, placed_lines, unpacked
from zoo.data.sources.named import WITH_SPLIT
from zoo.data.sources.tables import arrow_lines, parquet_lines
from zoo.errors import NoSuchSplit, ZooError
from zoo.limits import FILES
from zoo.paths import typed_path

TYPES = (".jsonl", ".parquet")
READ = "A stream reads .jsonl, .jsonl.gz, .jsonl.zst and .parquet files, data sets of the hub, and rows from Python"
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")
WILD = re.compile(r"[*?\[]")
SAID_OF_A_FILE = (
    "size",
    "mtime",
    "created",
    "LastModified",
    "last_modified",
    "updated",
    "ETag",
    "etag",
    "sha256",
    "blob_id",
)
"""What file systems say of a file that changes with it."""
FIRST_ROWS = 100
"""Rows by which those of a Python program are known."""
LINES_BETWEEN_LOOKS = 1000
"""Lines of a file that are read between two looks at whether it has changed."""
SKIPPED = 1 << 20
"""Bytes that are read and left out at a time."""

Placed = tuple[Line | RawLine, int]
"""A line, and the place behind it in its file: in bytes, or 0 where lines are counted."""


class StreamFile(ABC):
    """One file of a stream. name: for messages; print: changes when the file does."""

    name: str
    print: str

    @abstractmethod
    def lines(self, before: int = 0, place: int = 0) -> Iterator[Placed]:
        """Its lines, numbered from 1, behind the first `before`, which end at `place`. Raises ZooError."""


def is_pattern(text: str) -> bool:
    """Whether a text is an address, or a pattern that some file has."""
    if ADDRESS.fullmatch(text):
        return True
    with contextlib.suppress(ValueError, OSError):
        return bool(WILD.search(text)) and next(glob.iglob(os.path.expanduser(text), recursive=True), None) is not None
    return False


def stream_files(source: str, split: str = "train", named: Mapping[str, Any] | None = None) -> list[StreamFile]:
    """The files of a source, in sorted order. Raises ZooError for a source that is not read as it comes."""
    spelled = WITH_SPLIT.fullmatch(source)
    if ADDRESS.fullmatch(source):
        return _of_one_type(source, _addresses(source))
    name, split = spelled.groups() if spelled and not typed_path(source).exists() else (source, split)
    if given.is_given(name):
        return _of_python(name, split)
    if is_named(source, named or {}):
        raise ZooError(f"{name} is a source that gives all of its rows at once.", "Leave out --stream.")
    if is_on_hub(source, named):
        return _of_hub(name, split)
    return _of_one_type(source, _local(name, split))


def _local(name: str, split: str) -> list[StreamFile]:
    path = typed_path(name)
    if path.is_dir():
        return [_File(str(file)) for file in folders.files_of_split(path, split, file_type)[0]]
    refuse_dead_link(path, name)
    names = [name] if path.exists() else sorted(glob.glob(os.path.expanduser(name), recursive=True))
    if not names:
        raise no_file_fits(name) if glob.has_magic(name) else ZooError(f"No file is called {name}.", "Check the path.")
    if split != "train":
        raise NoSuchSplit(f"{name} names files, so it has no split '{split}'.", "Name the files of the split.")
    return [_File(found) for found in names if Path(found).is_file()]


def _of_one_type(source: str, files: Sequence[StreamFile]) -> list[StreamFile]:
    types = {file_type(Path(file.name)) or Path(file.name).suffix for file in files}
    for other in sorted(types - set(TYPES)):
        raise ZooError(f"{source} names files of the type '{other}'.", f"{READ}. Others are read without --stream.")
    if len(types) != 1:
        what = f"files of several types: {', '.join(sorted(types))}" if types else "no files"
        raise ZooError(f"{source} names {what}.", "Name files of one type: 'shards/*.jsonl'.")
    if len(files) > FILES:
        raise ZooError(f"{source} names more than {FILES:,} files.", "Name fewer, or make larger ones.")
    return list(files)


# -- files ---------------------------------------------------------------------------------------------------------


class _File(StreamFile):
    """A file on this machine."""

    def __init__(self, name: str):
        self.name = name
        self.print = self._print()

    def lines(self, before: int = 0, place: int = 0) -> Iterator[Placed]:
        try:
            self.refuse_change()
            with self._open() as file:
                for number, placed in enumerate(self._read(file, before, place), 1):
                    yield placed
                    if number % LINES_BETWEEN_LOOKS == 0:
                        self.look()
        except OSError as error:
            why = error.strerror or _said(error)
            raise ZooError(f"{self.name} cannot be read: {why}.", "Check that it is there, and its rights.") from None

    def look(self) -> None:
        """Raises ZooError for a file that has changed while it is read."""
        self.refuse_change()

    def refuse_change(self) -> None:
        """Raises ZooError where the file is not the one that was found at the start."""
        if (now := self._print()) != self.print:
            raise ZooError(f"{self.name} was {self.print}, and is {now}.", "Put back the file that the run began with.")

    def _read(self, file: IO[bytes], before: int, place: int) -> Iterator[Placed]:
        if file_type(Path(self.name)) == ".parquet":
            yield from ((line, 0) for line in parquet_lines(file, self.name, self._size(), before))
            return
        with unpacked(file, self.name, self._size()) as content:
            _skip(content, place, packed=Path(self.name).suffix.lower() in COMPRESSED)
            yield from placed_lines(content, self.name, before, place)

    def _open(self) -> IO[bytes]:
        return Path(self.name).open("rb")

    def _size(self) -> int:
        return Path(self.name).stat().st_size

    def _print(self) -> str:
        facts = Path(self.name).stat()
        return f"{facts.st_size:,} bytes, changed at {facts.st_mtime_ns}"


def _skip(file: IO[bytes], place: int, packed: bool) -> None:
    """Go to a place; what is packed is read up to there."""
    if not packed:
        file.seek(place)
        return
    while place > 0 and (part := file.read(min(place, SKIPPED))):
        place -= len(part)


class _RemoteFile(_File):
    """A file that fsspec opens."""

    def __init__(self, name: str, system: Any, path: str):
        self.system, self.path = system, path
        super().__init__(name)

    def lines(self, before: int = 0, place: int = 0) -> Iterator[Placed]:
        try:
            yield from super().lines(before, place)
        except ZooError:
            raise
        except Exception as error:
            # Each file system has errors of its own.
            raise ZooError(f"{self.name} cannot be read: {_said(error)}.", "Check that it is still there.") from None

    def look(self) -> None:
        # Each look would ask a server.
        return

    def _open(self) -> IO[bytes]:
        return cast(IO[bytes], io.BufferedReader(_Remote(self.system.open(self.path, "rb")), SKIPPED))

    def _info(self) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self.system.info(self.path)
        return info

    def _size(self) -> int:
        return int(self._info().get("size") or 0)

    def _print(self) -> str:
        info = self._info()
        return ", ".join(f"{name} {info[name]}" for name in SAID_OF_A_FILE if info.get(name) is not None)


class _Remote(io.RawIOBase):
    """What fsspec opens, as Python's own files are: it reads no line of a limited length."""

    def __init__(self, file: Any):
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.file.seekable())

    def readinto(self, buffer: Any) -> int:
        part = self.file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def seek(self, place: int, whence: int = 0) -> int:
        return int(self.file.seek(place, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def close(self) -> None:
        self.file.close()
        super().close()


def _addresses(pattern: str) -> list[StreamFile]:
    """The files at an address, which may be a pattern. Raises ZooError."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(pattern)
        paths = sorted(system.glob(path)) if WILD.search(path) else [path]
        return [_RemoteFile(system.unstrip_protocol(found), system, found) for found in paths]
    except ImportError as error:
        raise ZooError(f"{pattern} needs a package that is not installed: {error}.", "pip install it.") from None
    except Exception as error:
        hint = "Check the address."
        if "offline" in str(error).lower():
            hint = "Name files that are on this machine, or unset HF_HUB_OFFLINE."
        raise ZooError(f"{pattern} cannot be opened: {_said(error)}.", hint) from None


def _said(error: Exception) -> str:
    """What an error says, in a line."""
    return f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}".strip().rstrip(".")


# -- data sets and rows of a program -------------------------------------------------------------------------------


class _TableFile(StreamFile):
    """A part of a table of the datasets library."""

    def __init__(self, name: str, part: Any, print: str):
        self.name, self.part, self.print = name, part, print

    def lines(self, before: int = 0, place: int = 0) -> Iterator[Placed]:
        from zoo.libraries import tables

        return ((line, 0) for line in arrow_lines(tables.batches_behind(self.part, before), before))


class _RowsFile(StreamFile):
    """Rows that a Python program gives, again and again."""

    def __init__(self, name: str, rows: given.Given):
        self.name, self.rows, self.print = name, rows, _first_rows(rows.value)

    def lines(self, before: int = 0, place: int = 0) -> Iterator[Placed]:
        return ((line, 0) for line in self.rows.lines() if line.number > before)


def _first_rows(value: Any) -> str:
    """What the rows of a program are known by."""
    text = json.dumps([line.row for line in given.lines_of(value, FIRST_ROWS)], sort_keys=True, default=str)
    return f"a {given.type_of(value)} whose first rows are {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _of_python(name: str, split: str) -> list[StreamFile]:
    from zoo.libraries import tables

    rows = given.Given(name, split)
    value = rows.value
    return _parts(name, value, _first_rows(value)) if tables.is_table(value) else [_RowsFile(name, rows)]


def _of_hub(name: str, split: str) -> list[StreamFile]:
    from zoo.libraries import tables

    table = stream_hub(name, split)
    return _parts(f"{name}@{split}", table, tables.about(table))


def _parts(name: str, table: Any, print: str) -> list[StreamFile]:
    from zoo.libraries import tables

    parts = tables.parts(table)
    return [_TableFile(f"{name} part {number} of {len(parts)}", part, print) for number, part in enumerate(parts, 1)]
