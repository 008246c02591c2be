"""Sources: where rows come from, and a fingerprint of their content.

A source is named by a path (file or folder), by the name of a bundled or plugin source such as `starter`, by a hub
data set `owner/name`, `owner/name:config`, or by the option as which a Python program gives it: `python:data`. A split
follows an @: `starter@heldout`, `folder@test`, `owner/name:config@validation`. Names that look like a file never reach
the network.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.data.row_errors import RowError, describe_row
from zoo.data.sources import folders, given, hashes
from zoo.data.sources.hub import open_hub
from zoo.data.sources.lines import COMPRESSED, Line, RawLine, parsed, read_json, read_jsonl
from zoo.data.sources.named import WITH_SPLIT, part_of, parts_of, rows_of
from zoo.data.sources.reading import PLAIN, NamedSources, Reading
from zoo.data.sources.tables import arrow_lines, read_arrow, read_csv, read_parquet
from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.paths import typed_path

READERS: dict[str, Callable[[Path, str], Iterator[Line | RawLine]]] = {
    ".jsonl": lambda path, split: read_jsonl(path),
    ".json": read_json,
    ".csv": lambda path, split: read_csv(path),
    ".tsv": lambda path, split: read_csv(path),
    ".parquet": lambda path, split: read_parquet(path),
    ".arrow": lambda path, split: read_arrow(path),
}
_PACKED = (".jsonl", ".json", ".csv", ".tsv")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.+-]+)?")


@dataclass
class Source:
    """An opened source. Its lines can be read once; `digest` computes the `fingerprint`."""

    name: str
    split: str
    lines: Iterator[Line | RawLine]
    """As they are read: those of JSON Lines are not parsed yet (see `rows`)."""
    digest: Callable[[], str]
    notes: list[str] = field(default_factory=list)
    parts: list[tuple[int, str]] = field(default_factory=list)
    """For each file read so far: the number of rows in earlier files, and its name."""
    files: list[Path] = field(default_factory=list)
    total: int | None = None
    """The number of rows, if it is known without reading them."""
    has_content: bool = True
    """Whether it has a content that is there before it is read: files, and data sets of the hub."""
    about: dict[str, Any] = field(default_factory=dict)
    """More that data.json says of it."""

    @property
    def rows(self) -> Iterator[Line]:
        """The lines as rows."""
        return parsed(self.lines)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the content; computing it reads everything."""
        return self.digest()

    def states(self) -> list[tuple[int, ...] | None]:
        """What changes with each file, without reading it; None for one that is gone."""
        return [hashes.state(file) for file in self.files]

    def where(self, row: int) -> str:
        """`file:row` of a row number."""
        before, name = next((part for part in reversed(self.parts) if part[0] < row), (0, self.name))
        return f"{name}:{row - before}"


def open_source(source: str, kind: str, reading: Reading = PLAIN) -> Source:
    """Find a source by its name and open its split. Raises ZooError.

    kind: passed to named sources. The limit is that of a named source, which may generate its rows one by one; nothing
    else limits the lines here.
    """
    return _found(source, kind, reading.split, reading.named_sources, reading.limit)


def held_out_split(source: str, split: str, named: NamedSources) -> str | None:
    """The split that a source keeps for validation; None if it has none or is read from another split than train.

    A named source is asked for `heldout`; it may answer that it has none. Files and data sets of the hub have none.
    """
    if split != "train" or WITH_SPLIT.fullmatch(source):
        return None
    if given.is_given(source):
        return given.held_out_split(source)
    if parts_of(source)[0] in named:
        return "heldout"
    path = typed_path(source)
    return folders.held_out_split(path, file_type) if path.is_dir() else None


def _found(source: str, kind: str, split: str, named: NamedSources, limit: int | None) -> Source:
    spelled = WITH_SPLIT.fullmatch(source)
    if spelled and not typed_path(source).exists():
        name, split = spelled.groups()
    else:
        name = source
    if given.is_given(name):
        return _open_given(name, split, limit)
    if name in named:
        give = rows_of(named[name])
        takes = part_of(give)
        if takes is not None and takes.default is takes.empty:
            raise ZooError(f"The data source '{name}' needs a part.", hint=f"Write {name}:{takes.name.upper()}.")
        return _open_named(name, give, split, kind, limit)
    # `reasoning-gym:chain_sum` is a part of a named source.
    first, colon, part = name.partition(":")
    if colon and first in named:
        return _open_part(name, first, part, rows_of(named[first]), split, kind, limit)
    path = typed_path(name)
    if path.is_dir():
        return _open_folder(path, name, split)
    if path.exists():
        return _open_file(path, name, split)
    if _looks_like_hub(name, path):
        return _open_hub(name, split)
    raise _not_there(name, path, named)


def file_type(path: Path) -> str:
    """The suffix that says how a file is read (".jsonl" for "a.jsonl.gz"), or "" for other files."""
    name = Path(path.name.lower())
    if name.suffix in COMPRESSED:
        suffix = Path(name.stem).suffix
        return suffix if suffix in _PACKED else ""
    return name.suffix if name.suffix in READERS else ""


def _open_named(name: str, give: Callable[..., Any], split: str, kind: str, limit: int | None) -> Source:
    given_rows = give(split, kind)
    rows = list(itertools.islice(given_rows, limit))

    def digest() -> str:
        return f"sha256:{hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()}"

    total = len(given_rows) if isinstance(given_rows, Sized) else None
    return Source(f"{name}@{split}", split, _numbered(rows), digest, total=total, has_content=False)


def _open_part(
    name: str, first: str, part: str, give: Callable[..., Any], split: str, kind: str, limit: int | None
) -> Source:
    if part_of(give) is None:
        raise ZooError(f"The data source '{first}' has no parts, so no '{part}'.", hint=f"Write {first}.")
    return _open_named(name, lambda split, kind: give(split, kind, part), split, kind, limit)


def _open_given(name: str, split: str, limit: int | None) -> Source:
    """What a Python program gives."""
    rows = given.Given(name, split, limit)
    about = rows.about()
    note = f"A {about['type']} from Python, with the columns {', '.join(about['columns'])}. A resume needs it again."
    return Source(
        f"{name}@{split}", split, rows.lines(), rows.digest, [note], total=rows.total, has_content=False, about=about
    )


def _numbered(rows: Iterable[Any]) -> Iterator[Line]:
    """Rows of a plugin; if a row has a `row` of its own, this is its number in the plugin's file."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            yield Line(number, {}, (RowError("E_TYPE", "row", f"is {describe_row(row)}, not an object"),))
            continue
        own = row.get("row")
        yield Line(
            own if isinstance(own, int) and own > 0 else number,
            {column: value for column, value in row.items() if column != "row"},
        )


def _open_file(path: Path, name: str, split: str) -> Source:
    suffix = file_type(path)
    if not suffix:
        raise ZooError(
            f"{path} has a type that cannot be read as data.",
            hint="Accepted are " + ", ".join(READERS) + ", and .gz or .zst of the text types.",
        )
    if split != "train" and suffix != ".json":
        raise NoSuchSplit(
            f"{path} is a single file, so it has no split '{split}'.",
            hint="Leave out the split, or name the folder that holds one file for each split.",
        )
    rows = READERS[suffix](path, split)
    return Source(name, split, rows, lambda: _digest([path], path.parent), files=[path])


def _open_folder(folder: Path, name: str, split: str) -> Source:
    if folders.is_saved(folder):
        files, batches = folders.saved(folder, split)
        return Source(name, split, arrow_lines(batches), lambda: _digest(files, folder), files=files)
    files, notes = folders.files_of_split(folder, split, file_type)
    source = Source(name, split, iter(()), lambda: _digest(files, folder), notes, files=files)
    source.lines = _chained(source, files, folder)
    return source


def _chained(source: Source, files: list[Path], folder: Path) -> Iterator[Line | RawLine]:
    """The rows of several files, numbered consecutively; `source.parts` records where each file begins."""
    before = 0
    for path in files:
        source.parts.append((before, str(path)))
        last = 0
        for line in READERS[file_type(path)](path, source.split):
            last = line.number
            yield line._replace(number=before + last)
        before += last


def _digest(files: list[Path], folder: Path) -> str:
    """sha256 of the bytes of a file; for several files, sha256 of their names and digests."""
    digests = [hashes.sha256(path) for path in files]
    if len(files) == 1:
        return f"sha256:{digests[0]}"
    listing = "\n".join(f"{path.relative_to(folder)} {digest}" for path, digest in zip(files, digests, strict=True))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def is_named(source: str, named: NamedSources) -> bool:
    """Whether a source is one of these, or a part of one."""
    spelled = WITH_SPLIT.fullmatch(source)
    name = spelled[1] if spelled and not typed_path(source).exists() else source
    return bool({name, name.partition(":")[0]} & set(named))


def is_on_hub(source: str, named_sources: NamedSources | None = None) -> bool:
    """Whether a source names a data set of the hub."""
    spelled = WITH_SPLIT.fullmatch(source)
    name = spelled[1] if spelled and not typed_path(source).exists() else source
    if is_named(source, named_sources or {}):
        return False
    path = typed_path(name)
    return not path.exists() and _looks_like_hub(name, path)


def _looks_like_hub(name: str, path: Path) -> bool:
    """Whether a name that is not a path can be a hub data set; in an existing folder it is a misspelt file."""
    return bool(HUB_NAME.fullmatch(name)) and not file_type(path) and not path.parent.is_dir()


def _open_hub(name: str, split: str) -> Source:
    batches, fingerprint = open_hub(name, split)
    return Source(f"{name}@{split}", split, arrow_lines(batches), lambda: fingerprint)


def no_file_fits(pattern: str) -> ZooError:
    return ZooError(f"No file fits {pattern}.", "Check the pattern; relative paths count from the folder you are in.")


def refuse_dead_link(path: Path, name: str) -> None:
    """Raises ZooError for a link that leads nowhere."""
    if not path.is_symlink() or path.exists():
        return
    try:
        path.stat()
    except FileNotFoundError:
        raise ZooError(f"{name} is a link to {os.readlink(path)}, where nothing is.", "Mend the link.") from None
    except OSError:
        raise ZooError(f"{name} is a link that leads back to itself.", "Mend the link.") from None


def _not_there(name: str, path: Path, named: NamedSources) -> ZooError:
    """The error for a name that does not exist, with the nearest names."""
    refuse_dead_link(path, name)
    if "://" in name or (glob.has_magic(name) and glob.glob(str(path), recursive=True)):
        hint = "Add --stream, which `zoo train` and `zoo data` take."
        return ZooError(f"{name} names files that are only read as they come.", hint)
    if re.search(r"\s[+*]|[+*]\s", name):
        return ZooError(
            f"There is no data at {name}.", "A mixture is read by `zoo train` and `zoo data`; name one source."
        )
    if re.search(r"[*?]", name):
        return no_file_fits(name)
    folder = path.parent
    if not folder.is_dir():
        return ZooError(
            f"There is no data at {name}: the folder {folder} does not exist.",
            hint="Check the path; relative paths count from the folder you are in.",
        )
    files = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    entries = [entry for entry in files if file_type(Path(entry)) or (folder / entry).is_dir()]
    place = "this folder" if folder == Path() else str(folder)
    hint = "Give a file, a folder, or a hub data set as owner/name"
    if "/" not in name and named:
        return ZooError(
            f"There is no file, folder or data source '{name}' in {place}.{nearest(name, [*named, *entries])}",
            hint=f"{hint}; or a source by name: {', '.join(sorted(named))}.",
        )
    return ZooError(f"There is no data at {name}.{nearest(path.name, entries)}", hint=hint + ".")
