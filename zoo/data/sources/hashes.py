"""The content hash of a file, found again by its path, size, times of change and inode, so that it is read once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from pathlib import Path

from zoo.paths import cache_folder

SMALL = 1 << 20
"""Bytes below which a file is simply read."""
SETTLED = 2.0
"""Seconds after its last change from which a file is found again: a second change may have the same time."""


def sha256(path: Path) -> str:
    """sha256 of the bytes of a file."""
    status = path.stat()
    if status.st_size < SMALL:
        return _read(path)
    facts: tuple[str | int, ...] = (str(path.resolve()), *_state_of(status))
    if known := _find(facts):
        return known
    digest = _read(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED and state(path) == _state_of(status):
        _keep(facts, digest)
    return digest


def state(path: Path) -> tuple[int, ...] | None:
    """What changes with a file, without reading it; None for one that is gone."""
    try:
        return _state_of(path.stat())
    except OSError:
        return None


def _state_of(status: os.stat_result) -> tuple[int, ...]:
    # `touch -r` and `rsync -t` set the first time; nobody can set the second.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index() -> sqlite3.Connection:
    folder = cache_folder() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "files.sqlite", timeout=60, isolation_level=None)
    connection.execute(
        "create table if not exists hashes (path text primary key, size integer, modified integer, changed integer, "
        "inode integer, digest text)"
    )
    return connection


def _find(facts: tuple[str | int, ...]) -> str | None:
    # A cache that cannot be read or written only costs time.
    with contextlib.suppress(OSError, sqlite3.Error), contextlib.closing(_index()) as index:
        rows = index.execute(
            "select digest from hashes where path = ? and size = ? and modified = ? and changed = ? and inode = ?",
            facts,
        ).fetchall()
        return str(rows[0][0]) if rows else None
    return None


def _keep(facts: tuple[str | int, ...], digest: str) -> None:
    with contextlib.suppress(OSError, sqlite3.Error), contextlib.closing(_index()) as index:
        index.execute("insert or replace into hashes values (?, ?, ?, ?, ?, ?)", (*facts, digest))
