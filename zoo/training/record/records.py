"""How much of each file of rows a checkpoint knows: a resume finds that much again, and goes on behind it.

Rows are only ever appended while a run goes on. What a kill left behind those of the checkpoint is cut off: an
incomplete line, and the rows of steps that are made again. What is missing before it was lost, and is told.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from zoo.numbers import amount
from zoo.paths import write_text
from zoo.runs import BEST, Run
from zoo.training.record.offending import OFFENDING

ROWS = ("metrics.jsonl", "timing.jsonl", "samples.jsonl", "cases.jsonl", OFFENDING)
"""Files to which a run appends."""
WHOLE = ("before.json", "heldout.json", "token-losses.json", BEST)
"""Files that a run replaces."""
PART = 1 << 20


class Records:
    """The rows that a run has written so far. say: is told of files that somebody else has changed meanwhile."""

    def __init__(self, run: Run, say: Callable[[str], None] = print):
        self.run, self.say = run, say
        self._files = {name: _Prefix() for name in ROWS}

    def marks(self) -> dict[str, Any]:
        """{"rows": {file: {"rows", "bytes", "sha256"}}, "whole": files that stand}; both are on the disk then."""
        for name, prefix in self._files.items():
            if not prefix.read_on(self.run, name):
                self.say(f"{self.run.path / name} was cut or removed while the run goes on: its rows have a gap.")
        return {
            "rows": {name: prefix.mark() for name, prefix in self._files.items()},
            "whole": [name for name in WHOLE if (self.run.path / name).is_file()],
        }


class _Prefix:
    """The beginning of a file, as far as it has been read."""

    def __init__(self) -> None:
        self.bytes, self.rows, self.hash = 0, 0, hashlib.sha256()

    def mark(self) -> dict[str, Any]:
        return {"rows": self.rows, "bytes": self.bytes, "sha256": self.hash.hexdigest()}

    def read_on(self, run: Run, name: str, until: int | None = None) -> bool:
        """Read what has been appended; False if the file is shorter than before, and then read from its beginning."""
        file = run.path / name
        size = file.stat().st_size if file.is_file() else 0
        grown = size >= self.bytes
        if not grown:
            self.__init__()  # type: ignore[misc]
        if size == self.bytes:
            return grown
        with file.open("rb") as stream:
            # The rows of a checkpoint that survives a power cut survive it too.
            os.fsync(stream.fileno())
            stream.seek(self.bytes)
            end = size if until is None else min(size, until)
            while self.bytes < end and (part := stream.read(min(PART, end - self.bytes))):
                self.hash.update(part)
                self.bytes, self.rows = self.bytes + len(part), self.rows + part.count(b"\n")
        return grown


def lost(run: Run, marks: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What was lost of the marked files: (what there was, what there is) by file."""
    found: dict[str, tuple[str, str]] = {}
    for name, mark in marks["rows"].items():
        prefix = _Prefix()
        prefix.read_on(run, name, mark["bytes"])
        if prefix.mark() != mark:
            other = "other ones" if prefix.rows == mark["rows"] else amount(prefix.rows, "row")
            found[name] = (amount(mark["rows"], "row"), other if (run.path / name).is_file() else "nothing")
    missing = [name for name in marks["whole"] if not (run.path / name).is_file()]
    return found | dict.fromkeys(missing, ("there", "nothing"))


def forget(run: Run) -> None:
    """Remove the rows of a run that begins again and knows of none."""
    for name in (*ROWS, *WHOLE):
        (run.path / name).unlink(missing_ok=True)


def cut(run: Run, marks: Mapping[str, Any], step: int) -> None:
    """Remove what stands behind the marks; of a file that has changed before its mark, the rows of later steps."""
    changed = lost(run, marks)
    for name, mark in marks["rows"].items():
        file = run.path / name
        if not file.is_file():
            continue
        if name in changed:
            _keep_until(run, name, step)
        elif mark["bytes"]:
            os.truncate(file, mark["bytes"])
        else:
            file.unlink()


def _keep_until(run: Run, name: str, step: int) -> None:
    """Keep the readable rows of a file that belong to the first `step` steps."""
    lines = (run.path / name).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    kept = [line for line in lines if _steps_before(line) <= step]
    write_text(run.path / name, "".join(f"{line}\n" for line in kept))


def _steps_before(line: str) -> float:
    """The steps after which a row was written; infinite for one that is damaged, or that the end of the run writes."""
    try:
        row = json.loads(line)
        when = str(row.get("when", f"step {row.get('step')}"))
        if when == "before":
            return 0
        # A rollout is named after the steps before it, and is made again.
        return int(when.removeprefix("step ")) + (row.get("eval") == "rollout")
    except (ValueError, AttributeError, RecursionError):
        return math.inf
