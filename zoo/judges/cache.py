"""A cache of judgements on disk, keyed by content: the judge, the question with its texts, and how it was asked.

Each judge has one SQLite file; each response is written at once, so that a kill or a failing server loses none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class JudgementCache:
    """Responses by key (sha256 of a question). judge: the fingerprint of the respondent."""

    def __init__(self, folder: Path, judge: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{judge[:32]}.sqlite"
        self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._connection.execute("create table if not exists judgements (question blob primary key, response text)")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
        """The cached responses to those of `keys` that have one."""
        responses: dict[bytes, dict[str, Any]] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            query = f"select question, response from judgements where question in ({marks})"
            rows: Any = self._connection.execute(query, part)
            responses |= {key: json.loads(text) for key, text in rows}
        return responses

    def put(self, key: bytes, response: Mapping[str, Any]) -> None:
        """Store a response."""
        row = (key, json.dumps(dict(response)))
        self._connection.execute("insert or replace into judgements values (?, ?)", row)
