"""The content hash of a file, found again by its path, size, time of change and inode, so that it is read once."""

from __future__ import annotations

import contextlib
import hashlib
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
    facts = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
    if status.st_size < SMALL:
        return _read(path)
    if known := _find(facts):
        return known
    digest = _read(path)
    if time.time() - status.st_mtime > SETTLED and path.stat().st_mtime_ns == status.st_mtime_ns:
        _keep(facts, digest)
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index() -> sqlite3.Connection:
    folder = cache_folder() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "files.sqlite", timeout=60, isolation_level=None)
    connection.execute(
        "create table if not exists files (path text primary key, size integer, changed integer, inode integer, "
        "digest text)"
    )
    return connection


def _find(facts: tuple[str, int, int, int]) -> str | None:
    # A cache that cannot be read or written only costs time.
    with contextlib.suppress(OSError, sqlite3.Error), contextlib.closing(_index()) as index:
        rows = index.execute(
            "select digest from files where path = ? and size = ? and changed = ? and inode = ?", facts
        ).fetchall()
        return str(rows[0][0]) if rows else None
    return None


def _keep(facts: tuple[str, int, int, int], digest: str) -> None:
    with contextlib.suppress(OSError, sqlite3.Error), contextlib.closing(_index()) as index:
        index.execute("insert or replace into files values (?, ?, ?, ?, ?)", (*facts, digest))
