"""Formats: detects which of the common layouts a file has, and converts its rows to canonical records.

Detection looks at the columns and values of a sample. If no format or more than one fits, nothing is guessed: the
error lists the columns and the formats that are accepted. The formats themselves are in the files of this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from zoo.data.formats.answer import ANSWER_FORMATS
from zoo.data.formats.conversation import CONVERSATION_FORMATS
from zoo.data.formats.message import template_args, tools
from zoo.data.formats.pair import PAIR_FORMATS
from zoo.data.formats.shape import TEXTS, Format, Row, Sample
from zoo.data.kinds import KINDS, ROW_ARGS, Record
from zoo.errors import ZooError, nearest
from zoo.options.spelling import bind, parse

FORMATS: dict[str, Format] = {format.name: format for format in (*ANSWER_FORMATS, *PAIR_FORMATS, *CONVERSATION_FORMATS)}

SIDES = {
    "chosen": ("chosen", "better", "good", "best", "prefer", "accept", "win", "positive"),
    "rejected": (
        "reject", "worse", "worst", "bad", "dispref", "unpref", "nonpref", "not_", "dislike", "los", "negative",
    ),
}  # fmt: skip
"""Parts of the names of columns that hold one of the two answers of a pair."""


def names_side(column: str, side: str) -> bool:
    """Whether the name of a column says that it holds the chosen, or the rejected, answer of a pair."""
    return any(word in column.lower() for word in SIDES[side])


def detect(sample: Sample, name: str, kinds: Sequence[str] = ()) -> Format:
    """The one format that the sampled rows of source `name` are in. Raises ZooError for none or several.

    kinds: what the rows are wanted for, for the hint of the error.
    """
    fitting = [format for format in FORMATS.values() if not format.fallback and format.fits(sample)]
    fitting = fitting or [format for format in FORMATS.values() if format.fallback and format.fits(sample)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ZooError(
            f"{name} can be read in {len(fitting)} ways: its columns are {sample.describe()}.",
            hint="Say which is meant:\n"
            + "\n".join(f"  --format {format.name}  (as {format.kind}: {format.looks_like})" for format in fitting),
        )
    hint = _columns_hint(sample, kinds or tuple(KINDS))
    raise ZooError(f"{name} has columns that match no known format: {sample.describe()}.", hint=hint)


def _columns_hint(sample: Sample, kinds: Sequence[str]) -> str:
    known = [format for format in FORMATS.values() if format.kind in kinds]
    lines = [
        f"Say which column is which, for example: --columns {_guess(sample, KINDS[kinds[0]].required)}",
        "Accepted are:",
        *(f"  {format.name} ({format.kind}): {format.looks_like}" for format in known),
    ]
    return "\n".join(lines)


def _guess(sample: Sample, wanted: Sequence[str]) -> str:
    """`prompt=question,chosen=better`: for each wanted column that is not there one that may be it, or its name in
    capitals."""
    free = [name for name in sample.columns if name not in wanted and sample.has(name, *TEXTS)]
    pairs = []
    for column in (name for name in wanted if name not in sample.columns):
        if column in SIDES:
            fitting = [name for name in free if names_side(name, column)]
        elif column in ("label", "labels", "ranks"):
            fitting = []
        else:
            fitting = [name for name in free if not names_side(name, "rejected")]
            fitting = [name for name in fitting if "chosen" not in wanted or not names_side(name, "chosen")]
        found = fitting[0] if fitting else column.upper()
        free = [name for name in free if name != found]
        pairs.append(f"{column}={found}")
    return ",".join(pairs)


def named_format(text: str) -> Format:
    """The format with this name, with the options in its brackets. Raises ZooError with the nearest name."""
    name, options = parse(text, "data format", "alpaca(join=line)")
    if name not in FORMATS:
        raise ZooError(
            f"There is no data format '{name}'.{nearest(name, FORMATS)}",
            hint="The formats are: " + ", ".join(FORMATS) + ".",
        )
    format = FORMATS[name]
    if not options:
        return format
    arguments = bind(format.convert, options, f"data format '{name}'")
    return replace(format, name=text, convert=partial(format.convert, **arguments))


def parse_columns(text: str) -> dict[str, str]:
    """`"prompt=question,completion=answer"` as a mapping from the wanted name to the column's name in the data."""
    columns: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        wanted, equals, found = (piece.strip() for piece in part.partition("="))
        if not (wanted and equals and found):
            raise ZooError(
                f"--columns {text}: '{part}' is not of the form wanted=found.",
                hint="Write for example --columns prompt=question,completion=answer",
            )
        if wanted in columns:
            raise ZooError(f"--columns {text}: '{wanted}' is given twice.", hint="Name each wanted column once.")
        columns[wanted] = found
    return columns


def columns_of(columns: Any) -> dict[str, str] | None:
    """The mapping that --columns or a file gives. Raises ZooError."""
    return parse_columns(columns) if isinstance(columns, str) and columns else columns or None


def check_columns(columns: Mapping[str, str], present: list[str], name: str) -> None:
    """Raise ZooError when a mapped column is not among those of the source."""
    for wanted, found in columns.items():
        if found in present:
            continue
        could_be = wanted in present and "=" not in found
        swapped = f" The order is wanted=found: did you mean {found}={wanted}?" if could_be else ""
        raise ZooError(
            f"{name} has no column '{found}'.{nearest(found, present)}{swapped}",
            hint="Its columns are: " + ", ".join(present) + ".",
        )


def rename(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with the wanted column names. A column that already had a wanted name is replaced."""
    sources = set(columns.values())
    renamed = {column: value for column, value in row.items() if column not in sources}
    renamed.update({wanted: row[source] for wanted, source in columns.items() if source in row})
    return renamed


def to_record(row: Row, number: int, format: Format) -> Record:
    """One raw row as a canonical record: the fields of its kind, all other columns, its number.

    Raises RowError if the row does not have the format.
    """
    record = format.convert(row)
    if row.get("tools") is not None and format.kind != "text":
        schemas = tools(row["tools"])
        if schemas:
            record["tools"] = schemas
    if row.get(ROW_ARGS) is not None and format.kind != "text" and (args := template_args(row[ROW_ARGS])):
        record[ROW_ARGS] = args
    own = {*format.uses, *KINDS[format.kind].fields, "row", *record}
    if format.kind != "text":
        own.add("system")
    record.update({column: value for column, value in row.items() if column not in own})
    record["row"] = number
    return record
