"""Tables: csv, tsv, parquet and arrow files as rows.

Arrow gives every object the keys of all other objects, filled with None; such keys inside values are removed.
Cells of a csv file are texts; cells that hold the JSON of messages, ranks or labels are decoded.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from zoo.data.formats.shape import CHATS, ONE_TURN, shape_of
from zoo.data.row_errors import RowError
from zoo.data.sources.lines import COMPRESSED, DAMAGED, Line, damaged, open_binary, refuse_utf16
from zoo.errors import ZooError
from zoo.limits import EXPANSION, ROW, lines_of, most_of, too_large

BATCH = 1000
"""Rows of a table that are made at a time."""
_LISTS_IN_CELLS = ("completions", "steps", "labels", "ranks", "ranking", "rank", "scores", "answers", "history")


def read_csv(path: Path) -> Iterator[Line]:
    """The rows of a csv or tsv file with a header; row 1 is the first below the header."""
    csv.field_size_limit(ROW)
    name = path.stem if path.suffix in COMPRESSED else path.name
    try:
        with open_binary(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
            lines = lines_of(file, path)
            header = next(lines, "")
            reader = csv.DictReader(
                itertools.chain(filter(None, [header]), lines), delimiter=_delimiter(name, header), strict=True
            )
            _check_header(reader.fieldnames, path)
            for number, row in enumerate(reader, 1):
                yield _csv_row(number, row)
    except UnicodeDecodeError as error:
        with open_binary(path) as binary:
            refuse_utf16(binary.read(2), path)
        raise ZooError(f"{path} is not valid UTF-8: {error.reason}.", hint="Save the file as UTF-8.") from None
    except DAMAGED as error:
        raise damaged(path, error) from None
    except csv.Error as error:
        raise ZooError(
            f"{path}:{reader.line_num + 1}: broken csv: {error}.",
            hint="Check the quotes there; a quote inside a cell is written twice.",
        ) from None


def _delimiter(name: str, header: str) -> str:
    if name.endswith(".tsv"):
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _check_header(names: Any, path: Path) -> None:
    repeated = {name for name, count in Counter(names or ()).items() if count > 1}
    if repeated:
        raise ZooError(
            f"{path} names the column '{min(repeated)}' twice in its first line.",
            hint="Give every column its own name.",
        )


def _csv_row(number: int, row: dict[Any, Any]) -> Line:
    if None in row:
        more = f"has {len(row[None])} cell(s) more than the header"
        return Line(number, {}, (RowError("E_TYPE", "row", more),))
    return Line(number, {column: _cell(column, value) for column, value in row.items()})


def _cell(column: str, value: Any) -> Any:
    """The decoded value of a cell that holds a JSON list; an answer that merely looks like JSON stays a text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if shape_of(decoded) in (*CHATS, *ONE_TURN) or (column in _LISTS_IN_CELLS and isinstance(decoded, list)):
        return decoded
    return value


def read_parquet(path: Path) -> Iterator[Line]:
    """The rows of a parquet file."""
    return parquet_lines(path, path, path.stat().st_size)


def parquet_lines(file: Path | IO[bytes], name: Path | str, size: int, before: int = 0) -> Iterator[Line]:
    """The rows of a parquet file behind the first `before`. name, size: of the file, for messages and its limit."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            _check_growth(table.metadata, name, size)
            yield from _lines_of_groups(table, before)
    except ZooError:
        raise
    except Exception as error:
        # A damaged file makes pyarrow raise more than its own errors: UnicodeDecodeError, SystemError.
        raise _unreadable(name, "parquet", error) from None


def _lines_of_groups(table: Any, before: int) -> Iterator[Line]:
    """Groups of rows that lie before the first wanted row are not read."""
    number = 0
    for group in range(table.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        if number + count > before:
            lines = arrow_lines(table.iter_batches(batch_size=BATCH, row_groups=[group]), number)
            yield from itertools.islice(lines, max(0, before - number), None)
        number += count


def _check_growth(metadata: Any, name: Path | str, size: int) -> None:
    """Raises ZooError for a file that says that its columns are far larger than it is."""
    grown = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if grown > most_of(size):
        raise too_large(name, f"it grows to more than {EXPANSION} times its size")


def read_arrow(path: Path) -> Iterator[Line]:
    """The rows of an arrow file, in the stream or the file form."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                batches: Any = pyarrow.ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                source.seek(0)
                file = pyarrow.ipc.open_file(source)
                batches = (file.get_batch(index) for index in range(file.num_record_batches))
            yield from arrow_lines(map(_validated, batches))
    except Exception as error:
        raise _unreadable(path, "arrow", error) from None


def _validated(batch: Any) -> Any:
    """A batch whose offsets lie within it: pyarrow reads where they point. Raises pyarrow.ArrowInvalid."""
    batch.validate(full=True)
    return batch


def _unreadable(path: Path | str, form: str, error: Exception) -> ZooError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ZooError(f"{path} cannot be read as {form}: {reason}", hint="Copy or download the file again.")


def arrow_lines(batches: Any, number: int = 0) -> Iterator[Line]:
    """The rows of arrow record batches (or tables), numbered from 1, or on from `number`."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for row in batch.slice(start, BATCH).to_pylist():
                number += 1
                yield Line(number, {column: _without_none(value) for column, value in row.items()})


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
