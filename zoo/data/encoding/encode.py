"""Encoding: turns canonical records into token ids with the fields that their kind needs.

Records pass through the stages of `zoo.data.encoding.stages`: text, tokens, length, content.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zoo.data.encoding.block import Block, Columns
from zoo.data.encoding.collate import default_collate
from zoo.data.encoding.records import EncodedRecords
from zoo.data.encoding.stages import fitted, rendered, tokenized, trainable
from zoo.data.encoding.statistics import Statistics
from zoo.data.encoding.template import ChatTemplate
from zoo.data.kinds import KINDS, Record
from zoo.data.report import Report
from zoo.errors import ZooError, nearest
from zoo.numbers import amount
from zoo.values.records import Records

__all__ = ["Encoded", "default_collate", "encode"]

ROWS_AT_ONCE = 1000
LONG_ROWS = ("drop", "cut", "split")


@dataclass
class Encoded(Sequence[dict[str, Any]]):
    """Encoded records of one kind, and what became of the rows on the way."""

    kind: str
    records: Records
    report: Report
    notes: list[str]
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def lines(self) -> list[str]:
        """The dropped rows, the decisions and the sizes, as plain lines."""
        lines = self.report.lines() if self.report.problems else []
        return [*lines, *(f"  {line}" for line in [*self.notes, *self.statistics.summary()])]

    def as_json(self) -> dict[str, Any]:
        """The same facts for data.json."""
        return {**self.report.as_json(), **self.statistics.measured(), "notes": list(self.notes)}


def encode(
    records: Sequence[Record],
    kind: str,
    template: ChatTemplate,
    *,
    max_length: int = 1024,
    long_rows: str = "drop",
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Encode records of one kind. Each result has `row` (the record's position if it has none), `record`, and by kind:

    demonstration: `completion` and `conversation` (all assistant turns trained; the same object where equal),
    and `marked` where turns say that they are trained (those alone);
    preference: `chosen`, `rejected`, maybe `margin`, `p_chosen`; feedback: `completion`, `label`;
    prompt: `prompt`, int64 ids [P]; ranking: `completions`, `ranks`; text: `completion`;
    stepwise: `completion`, `step_ends` (the last token of each step, as positions in the completion), `labels`.

    max_length: most tokens of a prompt and its answer. Longer rows are dropped; with long_rows="cut" the end of the
    answer is cut off; with long_rows="split" a longer text becomes several records without losing a token.
    Raises ZooError for impossible options.
    """
    check_options(kind, max_length, long_rows)
    records = _numbered(records)
    report = Report("As tokens", rows=len(records))
    statistics, pieces = Statistics(), list[int]()
    blocks = []
    for start in range(0, len(records), ROWS_AT_ONCE):
        part = records[start : start + ROWS_AT_ONCE]
        block = encode_block(part, kind, template, max_length=max_length, long_rows=long_rows)
        blocks.append(block)
        report.extend(block.problems)
        statistics.add(block, template.eos_ids)
        pieces += block.pieces
        if progress is not None:
            progress(start + len(part), len(records))
    encoded = EncodedRecords(blocks)
    report.records = len(encoded)
    notes = [*template.notes, *split_note(len(pieces), sum(pieces), max_length)]
    return Encoded(kind, encoded, report, notes, statistics)


def encode_block(
    records: Sequence[Record], kind: str, template: ChatTemplate, *, max_length: int = 1024, long_rows: str = "drop"
) -> Block:
    """Encode numbered records as columns. The options are those of `encode`, which checks them."""
    report, columns, pieces = Report("As tokens"), Columns(), list[int]()
    with uncollected(), template.watched():
        rows = tokenized(rendered(records, kind, template, report), template)
        for row in trainable(fitted(rows, max_length, long_rows, report, pieces), kind, template, report):
            columns.add(row.record, row.fields)
    return columns.block(kind, report.problems, len(records), pieces)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it, Python looks for no cycles of objects.

    A block makes many lists and no cycles, and a search through all objects of the process took a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def split_note(texts: int, pieces: int, max_length: int) -> list[str]:
    """What was split, as a note: so many texts became so many pieces."""
    return [f"{amount(texts, 'text')} longer than {max_length:,} tokens became {pieces:,} pieces."] if texts else []


def check_options(kind: str, max_length: int, long_rows: str) -> None:
    """Raise ZooError for options that cannot be meant."""
    if kind not in KINDS:
        raise ZooError(f"There is no data kind '{kind}'.{nearest(kind, KINDS)}", f"Kinds: {', '.join(KINDS)}.")
    if long_rows not in LONG_ROWS:
        raise ZooError(
            f"long_rows is '{long_rows}'.{nearest(long_rows, LONG_ROWS)}", "Give drop or cut, or split for plain text."
        )
    if long_rows == "split" and kind != "text":
        raise ZooError(f"Only text can be split, and the data is of kind '{kind}'.", "Give --long-rows drop or cut.")
    if max_length < 2:
        raise ZooError(f"A max_length of {max_length} leaves no room for a prompt and an answer.", "Give 2 or more.")


def _numbered(records: Sequence[Record]) -> list[Record]:
    """The records; those without a row number, such as records made in code, get their position, counted from 1."""
    return [record if "row" in record else {**record, "row": place} for place, record in enumerate(records, 1)]
