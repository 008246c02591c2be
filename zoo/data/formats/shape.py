"""Shapes: what the columns of a sample of rows hold, so that a format can tell whether it fits.

A column counts as present if at least half of the sampled rows have it, and its shape is the most frequent one. So
a single odd row does not decide how a whole file is read; it becomes a row error later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.data.formats.message import ROLES
from zoo.data.row_errors import RowError

Row = Mapping[str, Any]
TRANSCRIPT = re.compile(r"\s*Human:")

# The shapes that a prompt or an answer may have.
TEXTS = ("text", "transcript")
CHATS = ("messages", "turns")
ONE_TURN = ("message", "turn")
ANSWERS = (*TEXTS, *CHATS, *ONE_TURN)

WORDS = {
    "text": "text",
    "transcript": "a Human/Assistant transcript",
    "messages": "messages with role and content",
    "message": "one message",
    "turns": "turns with from and value",
    "turn": "one turn",
    "bool": "true or false",
    "number": "number",
    "texts": "list of texts",
    "numbers": "list of numbers",
    "lists": "list of lists",
    "object": "object",
    "objects": "list of objects",
    "nothing": "nothing",
    "other": "something else",
}


@dataclass(frozen=True)
class Format:
    """One way in which people store one kind of data.

    `looks_like` describes it in a line; `fits` decides from a sample; `convert` gives the fields of the kind
    from one raw row, or raises RowError, and its further parameters are options: `--format "alpaca(join=line)"`;
    `uses` are the columns that it reads; all other columns are kept as extra columns.
    A `fallback` is considered only if nothing more specific fits.
    """

    name: str
    kind: str
    looks_like: str
    uses: tuple[str, ...]
    fits: Callable[[Sample], bool]
    convert: Callable[..., dict[str, Any]]
    fallback: bool = False


def shape_of(value: Any) -> str:
    """The shape of one value: a key of WORDS. Lists are judged by their first element."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "transcript" if TRANSCRIPT.match(value) and "Assistant:" in value else "text"
    if isinstance(value, Mapping):
        if value.get("role") is not None:
            return "message"
        return "turn" if value.get("from") is not None else "object"
    if isinstance(value, list):
        inner = shape_of(value[0]) if value else "nothing"
        return {
            "message": "messages",
            "turn": "turns",
            "object": "objects",
            "text": "texts",
            "transcript": "texts",
            "number": "numbers",
            "bool": "numbers",
            "nothing": "nothing",
        }.get(inner, "lists")
    return "other"


class Sample:
    """The columns of the first rows of a source and what they hold."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        shapes: dict[str, Counter[str]] = {}
        for row in rows:
            for column, value in row.items():
                shapes.setdefault(column, Counter())[shape_of(value)] += 1
        self.columns = list(shapes)
        self._shapes = {column: self._usual(counts, len(rows)) for column, counts in shapes.items()}

    @staticmethod
    def _usual(counts: Counter[str], rows: int) -> str:
        present = Counter({shape: count for shape, count in counts.items() if shape != "nothing"})
        return present.most_common(1)[0][0] if 2 * present.total() >= rows and present else "nothing"

    def shape(self, column: str) -> str:
        """What the column usually holds; "nothing" for a column that most rows lack."""
        return self._shapes.get(column, "nothing")

    def has(self, column: str, *shapes: str) -> bool:
        """Whether the column is present with one of these shapes (with any shape if none is named)."""
        shape = self.shape(column)
        return shape in shapes if shapes else shape != "nothing"

    def mostly(self, test: Callable[[Row], bool]) -> bool:
        """Whether a test holds for more than half of the sampled rows."""
        return 2 * sum(map(test, self.rows)) > len(self.rows)

    def describe(self) -> str:
        """The columns and what they hold, for an error message."""
        return ", ".join(f"{column} ({WORDS[self.shape(column)]})" for column in self.columns)


def take(row: Row, *columns: str) -> Any:
    """The value of the first of these columns that the row has; RowError if it has none."""
    for column in columns:
        if row.get(column) is not None:
            return row[column]
    raise RowError("E_TYPE", columns[0], "is missing")


def take_text(row: Row, column: str) -> str:
    """A column that must hold text."""
    value = take(row, column)
    if not isinstance(value, str):
        raise RowError("E_TYPE", column, f"holds {WORDS[shape_of(value)]}, not text")
    return value


def first_role(value: Any) -> str:
    """The canonical role of the first turn of a list of turns, or ""."""
    first = value[0] if isinstance(value, list) and value else value
    role = (first.get("role") or first.get("from")) if isinstance(first, Mapping) else None
    return ROLES.get(role.strip().lower(), "") if isinstance(role, str) else ""


_GOOD = ("true", "1", "1.0", "yes", "desirable", "good", "positive", "thumbs_up", "+")
_BAD = ("false", "0", "0.0", "no", "undesirable", "bad", "negative", "thumbs_down", "-", "-1", "-1.0")
LABELS: dict[str, bool] = {**dict.fromkeys(_GOOD, True), **dict.fromkeys(_BAD, False)}


def is_label(value: Any) -> bool:
    """Whether a value says yes or no."""
    return isinstance(value, bool | int | float | str) and str(value).strip().lower() in LABELS


def label(row: Row) -> bool:
    """The label of a row: true, 1, "desirable", ... or an opposite of these. RowError for anything else."""
    value = take(row, "label", "kto_tag")
    if not is_label(value):
        raise RowError("E_LABEL", "label", f"{value!r} is neither good nor bad; write true or false")
    return LABELS[str(value).strip().lower()]


def has_label(sample: Sample) -> bool:
    """Whether the sample has a column of yes and no labels."""
    return sample.mostly(lambda row: is_label(row.get("label")) or is_label(row.get("kto_tag")))
