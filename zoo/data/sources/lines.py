"""JSON files, read line by line and strictly: a damaged line is reported with its number, never repaired.

The JSON loader of the `datasets` library is deliberately not used: it turns date-like strings into dates,
"false" into False, and gives every object the keys of all other objects.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from zoo.data.row_errors import RowError, describe, describe_row
from zoo.errors import ZooError
from zoo.limits import TOO_DEEP, counted, excess, lines_of, whole


class Line(NamedTuple):
    """One row as read: its number from 1, its columns, and its problems (a row with an E_ code is unusable)."""

    number: int
    row: dict[str, Any]
    problems: tuple[RowError, ...] = ()


class RawLine(NamedTuple):
    """A line of JSON that is still to be parsed, and its number."""

    number: int
    content: bytes


def parsed(lines: Iterable[Line | RawLine]) -> Iterator[Line]:
    """Lines as rows; one that has too much of anything, or characters that no text may have, is unusable."""
    for line in lines:
        if isinstance(line, RawLine):
            line = _parse_line(line.content, line.number)
            why = excess(line.row)
        elif not (why := excess(line.row)) and (odd := odd_characters(line.row)):
            line = Line(line.number, {}, (RowError("E_JSON", "row", odd),))
        yield Line(line.number, {}, (RowError("E_LIMIT", "row", why),)) if why else line


def open_binary(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed if its name ends in .gz or .zst."""
    return unpacked(path.open("rb"), path, path.stat().st_size)


def unpacked(file: IO[bytes], path: Path | str, size: int) -> IO[bytes]:
    """An open file, decompressed if its name ends in .gz or .zst. path, size: of the compressed file."""
    suffix = Path(path).suffix.lower()
    if suffix not in COMPRESSED:
        return file
    return counted(cast(IO[bytes], _Gzip(fileobj=file) if suffix == ".gz" else _Zstandard(file)), path, size)


class _Gzip(gzip.GzipFile):
    """Closes the file that it decompresses, too."""

    def close(self) -> None:
        file: Any = self.fileobj
        super().close()
        if file is not None:
            file.close()


class _Zstandard:
    """The bytes of a .zst file. Raises zlib.error where it is cut or changed, as gzip does."""

    def __init__(self, file: IO[bytes]):
        import pyarrow

        self.file = file
        self._unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._unpacked.read(size))
        except OSError as error:
            raise zlib.error(str(error)) from None

    def close(self) -> None:
        self._unpacked.close()
        self.file.close()


def read_jsonl(path: Path) -> Iterator[RawLine]:
    """The lines of a JSON Lines file, not parsed yet; blank lines are skipped but numbered."""
    with open_binary(path) as file:
        for line, _ in placed_lines(file, path):
            yield line


def placed_lines(file: IO[bytes], path: Path | str, before: int = 0, place: int = 0) -> Iterator[tuple[RawLine, int]]:
    """The lines of an open JSON Lines file, each with the place behind it, in bytes.

    before, place: the lines that were read before, and the place behind them, at which the file stands.
    """
    try:
        for number, line in enumerate(lines_of(file, path, before), before + 1):
            place += len(line)
            if number == 1:
                refuse_utf16(line, path)
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield RawLine(number, line), place
    except DAMAGED as error:
        raise damaged(path, error) from None


COMPRESSED = (".gz", ".zst")
SHOWN_KEYS = 20
"""Keys of a row that are named for being there twice."""
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
"""What a compressed file raises that is cut or changed."""


def damaged(path: Path | str, error: Exception) -> ZooError:
    return ZooError(f"{path} cannot be decompressed: {error}.", hint="Copy or download the file again.")


def refuse_utf16(start: bytes, path: Path | str) -> None:
    """Raise ZooError for a file that Windows wrote in UTF-16."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ZooError(
            f"{path} is written in UTF-16, not in UTF-8.",
            hint=f"Convert it: iconv -f UTF-16 -t UTF-8 {path} > new-{Path(path).name}",
        )


def _parse_line(line: bytes, number: int) -> Line:
    try:
        text = line.decode("utf-8").rstrip()
        value, problems = parse_json(text)
    except UnicodeDecodeError as error:
        return _broken(number, f"is not valid UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        early = " (the line ends too early)" if error.pos >= len(text) else ""
        return _broken(number, f"broken JSON at column {error.colno}: {error.msg}{early}")
    except ValueError as error:
        return _broken(number, str(error))
    except RecursionError:
        return _broken(number, TOO_DEEP)
    if not isinstance(value, dict):
        hint = " (a file that is one list must be named .json)" if isinstance(value, list) else ""
        return _broken(number, f"is {describe_row(value)}, not an object in braces{hint}")
    return Line(number, value, problems)


def _broken(number: int, message: str) -> Line:
    return Line(number, {}, (RowError("E_JSON", "line", message),))


def parse_json(text: str) -> tuple[Any, tuple[RowError, ...]]:
    """A JSON value and warnings about keys that occur twice. Raises ValueError for text that is not valid JSON."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique_pairs = dict(pairs)
        if len(unique_pairs) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return unique_pairs

    if "\x00" in text:
        raise ValueError(f"holds a NUL character at column {text.index(chr(0)) + 1}")
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python's own words name a function of Python.
        raise ValueError(f"holds a number of more than {sys.get_int_max_str_digits():,} digits") from None
    if "\\u" in text and (odd := odd_characters(value)):
        raise ValueError(odd)
    twice = "the key occurs twice in one object; the last value counts"
    return value, tuple(RowError("W_DUPLICATE_KEY", name, twice) for name in repeated[:SHOWN_KEYS])


def odd_characters(value: Any) -> str:
    """What the texts of a value hold that no text may: half of a surrogate pair, or NUL; "" if nothing."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds half a character (lone surrogate \\u{ord(text[error.start]):04x})"
    if "\\u0000" in text and any("\x00" in string for string in _strings(value)):
        return "holds a NUL character (\\u0000)"
    return ""


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def read_json(path: Path, split: str) -> Iterator[Line | RawLine]:
    """The rows of a JSON file that is a list, or an object around one; falls back to JSON Lines.

    An object may hold several lists under the names of splits. Raises ZooError for anything else.
    """
    try:
        with open_binary(path) as file:
            content = whole(file, path)
    except DAMAGED as error:
        raise damaged(path, error) from None
    refuse_utf16(content, path)
    try:
        value, problems = parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ZooError(f"{path}:{line}: invalid UTF-8.", hint="Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            yield from read_jsonl(path)
            return
        raise ZooError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}.",
            hint="Correct the file at that place; a file with one object per line must be named .jsonl.",
        ) from None
    except (ValueError, RecursionError) as error:
        what = TOO_DEEP if isinstance(error, RecursionError) else str(error)
        raise ZooError(f"{path} {what}.", hint="Remove it, or write the file again.") from None
    for number, row in enumerate(_row_list(value, path, split), 1):
        if isinstance(row, dict):
            yield Line(number, row, problems if number == 1 else ())
        else:
            yield Line(number, {}, (RowError("E_TYPE", "row", f"is {describe_row(row)}, not an object"),))


def _row_list(value: Any, path: Path, split: str) -> list[Any]:
    """The list of rows in a JSON document."""
    if isinstance(value, list):
        return value
    lists = (
        {
            name: rows
            for name, rows in value.items()
            if isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        }
        if isinstance(value, dict)
        else {}
    )
    if split in lists:
        return lists[split]
    if len(lists) == 1 and len(value) <= 3:
        return next(iter(lists.values()))
    content = f"the lists {', '.join(lists)}" if lists else describe(value)
    raise ZooError(
        f"{path} must be a list of rows, or an object with one list of rows; it holds {content}.",
        hint=f"If one of them is meant: --split NAME or {path}@NAME"
        if lists
        else 'Write it as [{"prompt": "…", "completion": "…"}, …].',
    )
