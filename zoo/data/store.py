"""The store: the encoded records of a source in the cache folder, found again by a key of all that they depend on.

A store is a folder of shards and a manifest, which is written last: without it nothing counts as whole. Shards that a
kill left are found again, and the rest is encoded after them. One process makes a store; others wait for it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy

from zoo.data import shards as files
from zoo.data.checksums import DamagedStore, check_file, file_sums, opened, sealed
from zoo.data.encoding.block import Numbers
from zoo.data.problems import Problems
from zoo.data.shards import Shard, joined
from zoo.errors import ZooError
from zoo.libraries import columns
from zoo.paths import cache_folder, write_text
from zoo.runs import in_turn

SHARD_BYTES, SHARD_ROWS = 32 << 20, 50_000
"""A shard is written when it has so many bytes or rows."""
CHECKED_BYTES = 128 << 20
"""A store of at most so many bytes is checked as a whole when it is opened, which takes a fraction of a second."""
MANIFEST, TOLD = "manifest.json", "told.arrow"
DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading a file raises that was changed. pyarrow's errors are ValueErrors and OSErrors."""

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass
class Kept:
    """What a store holds: its shards, the problems of reading in order, the prompts, and where its files begin."""

    shards: Sequence[Shard]
    told: Problems
    prompts: tuple[int, Numbers]
    """The number of different prompts, and the smallest hashes of prompts."""
    parts: list[tuple[int, str]]
    place: Path | None = None
    """The folder, if it is not in memory."""


def is_full(shards: Sequence[Shard]) -> bool:
    """Whether these are enough for a shard in a file."""
    rows, size = sum(shard.counts.rows for shard in shards), sum(shard.size for shard in shards)
    return rows >= SHARD_ROWS or size >= SHARD_BYTES


class Store:
    """The folder of a key. say: gets what its user should know."""

    def __init__(self, key: str, say: Say = lambda text: None):
        self.folder, self.say = cache_folder() / "data" / key, say

    @property
    def is_whole(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    def read(self, whole: bool = False) -> Kept | None:
        """What is kept, None if there is nothing or not everything. A damaged store is removed, and told.

        whole: whether all bytes are checked now, as those of a small store always are. Raises ZooError for a damaged
        store that cannot be removed.
        """
        if not self.is_whole:
            return None
        try:
            return self._read(whole or sum(file.stat().st_size for file in self._files()) <= CHECKED_BYTES)
        except DAMAGED as error:
            self.say(f"The store in {self.folder} is damaged ({_why(error)}); it is made again.")
            self._clear_damaged()
            return None

    def _read(self, whole: bool) -> Kept:
        facts = opened(self.folder / MANIFEST)
        with contextlib.suppress(OSError):
            # `zoo cache` clears by the time of the last use.
            os.utime(self.folder / MANIFEST)
        kept = [files.load(self.folder, number, whole) for number in range(facts["shards"])]
        check_file(self.folder / TOLD, facts["files"][TOLD], whole=True)
        told = Problems.from_columns(columns.read_table(self.folder / TOLD), facts["codes"])
        if [len(shard.block) for shard in kept] != facts["records"] or len(told) != facts["told"]:
            raise ValueError("it does not have all of its records")
        prompts = (facts["prompts"], numpy.array(facts["smallest"], dtype=numpy.uint64))
        return Kept(kept, told, prompts, [(before, name) for before, name in facts["parts"]], self.folder)

    def _clear_damaged(self) -> None:
        try:
            self.clear()
        except OSError as error:
            message = f"The store in {self.folder} is damaged and cannot be removed: {error.strerror}."
            raise ZooError(message, "Name another folder in ZOO_CACHE.") from None

    def clear(self) -> None:
        """Remove what is in the folder, the manifest first; the folder stays, because it is locked."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for file in self._files():
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with what is in it. The caller has its turn."""
        self.clear()
        with contextlib.suppress(OSError):
            (self.folder / ".lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def refusal(self) -> str:
        """Why nothing can be written into the folder; "" where it can be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                return ""
        except OSError as error:
            return error.strerror or str(error)

    def _files(self) -> list[Path]:
        """All files but the one that is locked on network disks."""
        return [file for file in self.folder.iterdir() if file.name != ".lock"]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """In the block no other process makes this store. Raises OSError where the folder cannot be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with in_turn(
            self.folder, lambda: self.say(f"Another process is encoding this data; waiting for {self.folder}.")
        ):
            # Whoever had the turn before may have removed it.
            self.folder.mkdir(exist_ok=True)
            yield

    def begun(self) -> list[Shard]:
        """The shards that a kill has left, from the first row on; what else it left is removed."""
        shards: list[Shard] = []
        with contextlib.suppress(*DAMAGED):
            while (self.folder / f"{len(shards):05}.json").is_file():
                shard = files.load(self.folder, len(shards), whole=True)
                if len(shard.digests) != shard.counts.read:
                    # A store that was whole: it was being removed.
                    break
                shards.append(shard)
        kept = {f"{number:05}" for number in range(len(shards))}
        for file in self._files():
            if file.name[:5] not in kept:
                file.unlink(missing_ok=True)
        return shards

    def write(self, shards: Iterable[Shard], kept: list[Shard]) -> None:
        """Write shards behind those in `kept`, which gets them, joined to larger ones, from their files.

        What ends it early, such as ctrl-C, leaves all that was encoded.
        """
        buffer: list[Shard] = []
        try:
            for shard in shards:
                buffer.append(shard)
                if is_full(buffer):
                    self._append(buffer, kept)
        finally:
            if buffer:
                self._append(buffer, kept)

    def _append(self, buffer: list[Shard], kept: list[Shard]) -> None:
        try:
            files.save(joined(buffer), self.folder, len(kept))
        except OSError:
            for name in files.names_of(len(kept)).values():
                (self.folder / name).unlink(missing_ok=True)
            raise
        kept.append(files.load(self.folder, len(kept)))
        buffer.clear()

    def finish(self, kept: Kept, facts: dict[str, Any]) -> None:
        """Write the manifest, with facts for whoever looks into the cache."""
        columns.write_table(self.folder / TOLD, kept.told.as_columns())
        rows = sum(shard.counts.rows for shard in kept.shards)
        manifest = {
            **facts, "rows": rows, "made": time.strftime("%Y-%m-%d %H:%M:%S"), "shards": len(kept.shards),
            "records": [len(shard.block) for shard in kept.shards], "codes": kept.told.names, "told": len(kept.told),
            "prompts": kept.prompts[0], "smallest": kept.prompts[1].tolist(), "parts": kept.parts,
            "files": {TOLD: file_sums(self.folder / TOLD)},
        }  # fmt: skip
        write_text(self.folder / MANIFEST, sealed(manifest))
        for file in self.folder.glob("*.digests.npy"):
            file.unlink()


def _why(error: Exception) -> str:
    """What is wrong with a store, in words."""
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if type(error) is ValueError else "its files do not belong together"


def made_again(make: Callable[[], T], say: Say) -> T:
    """What `make` gives. Where it reads a damaged store, that is removed, and it is called again.

    Raises ZooError for a damaged store that cannot be removed.
    """
    try:
        return make()
    except DamagedStore as error:
        store = Store(error.folder.name, say)
    with store.turn():
        # Another process may have made it again already.
        store.read(whole=True)
    return make()
