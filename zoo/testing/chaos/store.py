"""The store of encoded rows as an aim: what it holds after any kills equals what it holds without one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from zoo.data import prepared, store
from zoo.data.encoding.template import ChatTemplate
from zoo.data.report import Problem
from zoo.testing.chaos.aims import Aim
from zoo.testing.chaos.training import FILES, write_rows
from zoo.testing.tiny import tiny_rows, write_folder
from zoo.values.answers import answers_in

ROWS = 400
PHASES = {
    "zoo.data.prepared:stored": "waiting for its turn",
    "zoo.data.work:Work.encoded": "encoding",
    "zoo.data.shards:save": "writing a shard",
    "zoo.data.store:Store.begun": "going on",
    "zoo.data.store:Store.finish": "writing the manifest",
}


@contextmanager
def _small(folder: Path, block: int = 20, shard: int = 60) -> Iterator[None]:
    """Blocks and shards of so many rows, kept for files of any size, and a cache in the folder of the trial."""
    with (
        mock.patch.dict(os.environ, ZOO_CACHE=str(folder / "cache")),
        mock.patch.object(prepared, "ROWS_AT_ONCE", block), mock.patch.object(store, "SHARD_ROWS", shard),
        mock.patch.object(prepared, "STORED_BYTES", 0),
    ):  # fmt: skip
        yield


def stored(aim: Aim) -> Aim:
    """A run of training that keeps its encoded rows, in shards of four rows."""

    def small(action: Callable[[Path], None] | None) -> Callable[[Path], None]:
        def act(folder: Path) -> None:
            assert action is not None
            with _small(folder, 2, 4):
                action(folder)

        return act

    phases = {**aim.phases, **PHASES}
    return replace(aim, name=f"{aim.name} --store", make=small(aim.make), resume=small(aim.resume), phases=phases)


def _prepared(folder: Path) -> prepared.Prepared:
    from zoo.libraries.pretrained import load

    files = folder.parent / FILES
    template = ChatTemplate(load("AutoTokenizer", files / "tiny"))
    return prepared.prepare(str(files / "many.jsonl"), "preference", template, max_length=60, store=True)


def make(folder: Path) -> None:
    with _small(folder):
        _prepared(folder)


def read(folder: Path) -> Mapping[str, Any]:
    """The records, the reports and what is held out. Raises ValueError where the store is not whole."""
    with _small(folder), mock.patch.object(prepared, "_made", _not_whole):
        made = _prepared(folder)
    digest = hashlib.sha256()
    for record in made.encoded.records:
        digest.update(f"{record['row']} {record['record']}".encode())
        for answer in answers_in(record):
            digest.update(repr([part.tolist() for part in (answer.prompt, answer.completion, answer.mask)]).encode())
    sides = made.without_held_out(0.1)
    problems: list[Problem] = made.report.problems + made.encoded.report.problems
    return {
        "records": digest.hexdigest(), "report": made.report.as_json() | {"source": ""}, "problems": problems,
        "sides": [side.encoded.as_json() for side in sides],
        "left over": sorted(path.name for path in (folder / "cache").rglob("*") if path.name.startswith(".tmp-")),
    }  # fmt: skip


def _not_whole(place: store.Store, *rest: Any) -> Any:
    raise ValueError(f"{place.folder} is not whole")


def prepare(folder: Path) -> None:
    """Rows, of which some repeat others, some are too long, and some cannot be used."""
    files = folder / FILES
    files.mkdir(exist_ok=True)
    write_folder(files / "tiny")
    rows = tiny_rows("preference", ROWS)
    for place in range(0, ROWS, 40):
        rows[place] = rows[1]
        rows[place + 7] = {**rows[place + 7], "rejected": ""}
        rows[place + 9] = {**rows[place + 9], "chosen": "long " * 60}
    write_rows(files / "many.jsonl", rows)


STORE = Aim("store", make=make, read=read, prepare=prepare, phases=PHASES)
