"""The file of labelled rows: one JSON object per line, ready for training, and continued after a kill.

Next to `labelled.jsonl` is `labelled.json` with the settings of the labels and, when all are done, the summary. Other
settings are refused: a file holds the labels of one judge, asked in one way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.paths import write_text
from zoo.runs import Run


class LabelFile:
    """Writes rows as they are made. Raises ZooError if the file has labels with other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        if path.suffix != ".jsonl":
            raise ZooError(
                f"--out {path}: labels are written as one JSON object per line.", "Name a file like labelled.jsonl."
            )
        self.path, self.facts = path, path.with_suffix(".json")
        self.settings = json.loads(json.dumps(settings))
        try:
            self._begin()
        except OSError as error:
            raise ZooError(f"{path} cannot be written: {error.strerror}.", "Name another file with --out.") from None

    def _begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # An empty file holds no labels with other settings.
        if self.path.exists() and self.path.stat().st_size:
            self._check_settings()
        # Before the rows: a kill right after this leaves settings without rows, which the next start writes again.
        self._replace_facts(None)
        self.path.touch()
        self.rows = self._complete_rows()

    def discard(self) -> None:
        """Remove the files if they hold no label."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
            self.facts.unlink(missing_ok=True)

    def _check_settings(self) -> None:
        if not self.facts.is_file():
            raise ZooError(
                f"{self.path} exists, but {self.facts.name}, which says how it was made, does not.",
                "Name another file with --out, or remove it.",
            )
        before = Run(self.path.parent).read_json(self.facts.name).get("settings", {})
        changed = [name for name in {**before, **self.settings} if before.get(name) != self.settings.get(name)]
        if changed:
            differences = "; ".join(
                "the rows differ, as with another --limit or other data" if name == "data"
                else f"{name} was {before.get(name)}, now {self.settings.get(name)}" for name in changed
            )  # fmt: skip
            raise ZooError(
                f"{self.path} holds labels with other settings: {differences}.",
                f"Name another file with --out, or remove {self.path} and {self.facts}.",
            )

    def _complete_rows(self) -> list[dict[str, Any]]:
        """The rows of the file; an incomplete last line, which a kill leaves, is cut off."""
        raw = self.path.read_bytes()
        end = raw.rfind(b"\n") + 1
        if end != len(raw):
            with self.path.open("r+b") as file:
                file.truncate(end)
        return Run(self.path.parent).read_rows(self.path.name)

    @property
    def done(self) -> set[tuple[int, int]]:
        """(row of the source, number of the pair) of every labelled pair."""
        return {(row["source_row"], row["pair"]) for row in self.rows}

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows; after it returns, they survive a kill."""
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._replace_facts(summary)

    def _replace_facts(self, summary: Mapping[str, Any] | None) -> None:
        content = {"settings": self.settings, **({} if summary is None else {"summary": dict(summary)})}
        write_text(self.facts, json.dumps(content, indent=1, ensure_ascii=False))
