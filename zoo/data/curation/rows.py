"""The rows of any source for curation: each row as the source holds it, and as the record that training would read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoo.data.encoding.messages import as_turn, texts_of
from zoo.data.formats import named_format
from zoo.data.formats.shape import Format
from zoo.data.kinds import EXTRAS, Record
from zoo.data.load import find_format, read_as
from zoo.data.report import Report
from zoo.data.sources import open_source
from zoo.data.sources.reading import PLAIN, Reading
from zoo.data.stages import records_of
from zoo.errors import ZooError

PARTS = ("everything", "prompt", "answer")
ANSWERS = {
    "demonstration": ("completion",),
    "feedback": ("completion",),
    "preference": ("chosen", "rejected"),
    "ranking": ("completions",),
    "stepwise": ("steps",),
    "text": ("text",),
    "prompt": (),
}
VERDICTS = ("label", "ranks", "labels")
"""Fields that judge an answer: rows that differ in one of them are not duplicates, whatever their texts."""


class Row(NamedTuple):
    """One row: its number, its columns as the source holds them, and its record (None if it cannot be used)."""

    number: int
    columns: dict[str, Any]
    record: Record | None


@dataclass
class Rows:
    """An opened source. Iterate over it once; `report` then says which rows could not be used and why."""

    name: str
    fingerprint: str
    format: Format
    report: Report
    rows: Iterator[Row]

    @property
    def kind(self) -> str:
        return self.format.kind


def open_rows(source: str, reading: Reading = PLAIN, kind: str = "demonstration") -> Rows:
    """Open a source for one pass. kind: what named sources are asked for.

    Raises ZooError for a source that does not exist or has no known format.
    """
    chosen = named_format(reading.format) if reading.format else None
    opened = open_source(source, kind, reading)
    report = Report(opened.name, where=opened.where, notes=list(opened.notes))
    first = itertools.islice(opened.rows, reading.limit)
    lines, chosen = find_format(first, reading.columns, chosen, opened, report)

    def rows(format: Format) -> Iterator[Row]:
        noted = False
        for line in lines:
            record = next(records_of([line], format, reading.columns, report), None)
            if record is not None and not noted:
                report.notes.append(read_as(record, format))
                noted = True
            yield Row(line.number, line.row, record)

    return Rows(opened.name, opened.fingerprint, chosen, report, rows(chosen))


def check_part(part: str, kind: str) -> None:
    """Raise ZooError if records of this kind have no such part."""
    if (part == "answer" and not ANSWERS[kind]) or (part != "everything" and kind == "text"):
        raise ZooError(
            f"The data is of kind '{kind}' and has no {part} of its own.",
            "Leave out --on: such a record has only one text.",
        )


def fields_of(record: Record, kind: str, part: str = "everything") -> dict[str, str]:
    """The texts of a record by field name (`completions[0]` for one of several); messages are joined by line breaks."""
    texts: dict[str, str] = {}
    if part != "answer" and "prompt" in record:
        texts["prompt"] = text_of(record["prompt"])
    for name in ANSWERS[kind] if part != "prompt" else ():
        value = record[name]
        if name == "completions":
            texts |= {f"{name}[{index}]": text_of(answer) for index, answer in enumerate(value)}
        else:
            texts[name] = "\n".join(value) if name == "steps" else text_of(value)
    return texts


def good_answers(record: Record, kind: str) -> dict[str, str]:
    """The texts to be learned: no rejected, undesirable or lower-ranked answers; the prompt if it is all there is."""
    if kind == "prompt":
        return fields_of(record, kind)
    answers = fields_of(record, kind, "answer")
    if kind == "feedback" and not record["label"]:
        return {}
    if kind == "preference":
        return {"chosen": answers["chosen"]}
    if kind == "ranking":
        best = record["ranks"].index(min(record["ranks"]))
        return {f"completions[{best}]": answers[f"completions[{best}]"]}
    return answers


def text_of(value: Any) -> str:
    """A prompt or an answer as plain text, with tool calls but without roles."""
    if isinstance(value, str):
        return value
    return "\n".join(filter(None, (part for turn in value for part in _parts(turn))))


def _parts(turn: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(turn[key]) for key in ("reasoning_content", "reasoning", "thinking") if turn.get(key))
    yield turn.get("content") or ""
    yield " ".join(texts_of(turn.get("tool_calls") or ()))


def content_of(record: Record, kind: str, part: str = "everything") -> dict[str, Any]:
    """What must be equal in two duplicates: turns with their roles and keys, without white space at the ends."""
    names = (("prompt",) if part != "answer" and "prompt" in record else ()) + (
        ANSWERS[kind] if part != "prompt" else ()
    )
    content = {name: _turns(record[name], name) for name in names}
    if part == "everything":
        content |= {name: record[name] for name in EXTRAS if record.get(name)}
    return content


def _turns(value: Any, name: str) -> Any:
    if name in ("completions", "steps"):
        return [_turns(answer, "") for answer in value]
    turns = [as_turn(value, "user" if name == "prompt" else "assistant")] if isinstance(value, str) else value
    return [{**turn, "content": (turn.get("content") or "").strip()} for turn in turns]


def verdict_of(record: Record) -> str:
    """The fields that judge the answers, as text to compare."""
    return json.dumps([record[name] for name in VERDICTS if name in record], default=str)
