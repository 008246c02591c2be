"""Folders of zoo's own, and files and folders that appear complete or not at all: written beside, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from typing import Any

from zoo.errors import ZooError

BLOCK = 32 << 20
"""Bytes that one CPU core hashes at a time."""
IN_MEMORY = 4 << 20
"""Bytes above which numbers go to a temporary file."""


def cache_folder() -> Path:
    """Where models and what was computed once are kept: $ZOO_CACHE, or zoo/ in the user's cache folder."""
    given = os.environ.get("ZOO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "zoo"


def typed_path(name: str | Path) -> Path:
    """The path that somebody typed, `~` being the home folder. Raises ZooError for one that no disk can hold."""
    path = Path(name)
    if "\0" in str(name) or any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise ZooError(f"'{str(name)[:40]}…' is no path: a part of it is too long, or holds a NUL character.")
    try:
        return path.expanduser()
    except RuntimeError:
        # `~name` of nobody: the file of that name.
        return path


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Replace a file: a kill leaves the old one or the new one. errors: as in `open`."""
    beside = path.with_name(f".tmp-{path.name}")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors)
        os.replace(beside, path)
    except BaseException:
        # A full disk: the half of a file would fill it further.
        beside.unlink(missing_ok=True)
        raise


def refuse_existing(path: Path) -> None:
    """Raises ZooError for a path at which something is, with a free one beside it."""
    if path.exists():
        free = next(other for number in itertools.count(2) if not (other := Path(f"{path}-{number}")).exists())
        raise ZooError(
            f"{path} already exists.",
            f"Name another folder, such as {free}. Or remove it first: rm -r {quote(str(path))}",
        )


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` when the block ends, and goes when it fails."""
    beside = folder.parent / f".tmp-{folder.name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def unique_beside(path: Path) -> Iterator[Path]:
    """A place of nobody else's on the disk of `path`, for a file or folder that is then renamed; what is left goes.

    Nothing is there yet: what is made there has the rights that the umask leaves, which a temporary file has not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-", ignore_cleanup_errors=True) as private:
        yield Path(private) / path.name


def give_usual_rights(*files: Path) -> None:
    """Give files that a library wrote for their owner alone the rights of other new files, which the umask leaves."""
    for file in files:
        with unique_beside(file) as new:
            new.touch()
            # Not every disk has rights to give.
            with contextlib.suppress(OSError):
                shutil.copymode(new, file)


def content_hash(files: Iterable[Path]) -> str:
    """sha256 over names and contents of files. Their blocks are hashed on all CPU cores at the same time."""
    sizes = [(file, file.stat().st_size) for file in files]
    blocks = [(file, start) for file, size in sizes for start in range(0, size, BLOCK)]
    whole = hashlib.sha256("".join(f"{file.name} {size}\n" for file, size in sizes).encode())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as cores:
        for digest in cores.map(_block_hash, blocks):
            whole.update(digest)
    return whole.hexdigest()


def _block_hash(block: tuple[Path, int]) -> bytes:
    file, start = block
    with file.open("rb", buffering=0) as stream:
        stream.seek(start)
        return hashlib.sha256(stream.read(BLOCK)).digest()


def scratch_array(length: int, dtype: str) -> Any:
    """A numpy array to be filled, [length]. A large one lies in a temporary file, which goes with the array."""
    import numpy

    size = length * numpy.dtype(dtype).itemsize
    with contextlib.suppress(OSError):
        if size > IN_MEMORY:
            with tempfile.TemporaryFile() as file:
                # A full disk is an error here, and not a signal when a page is written.
                os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
                return numpy.memmap(file, dtype=dtype, mode="r+", shape=(length,))
    return numpy.empty(length, dtype=dtype)
