"""Data that a Python program gives: a list of rows, a generator function, a frame, or a data set of the hub's library.

Frames of pandas and polars are known by their methods, and neither library is imported. While a run goes on, what it
was given is a source under the name of its option, `python:data`, or under a name that a mixture mentions:
`0.7*python:mine + 0.3*chat.jsonl`.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from zoo.contract.lent import PREFIX
from zoo.data.row_errors import RowError, describe_row
from zoo.data.sources.folders import HELD_OUT
from zoo.data.sources.lines import Line
from zoo.data.sources.tables import arrow_lines
from zoo.errors import NoSuchSplit, ZooError, nearest
from zoo.limits import TOO_DEEP

OPTIONS = ("data", "eval_data", "decay_data")
"""Options that take such data."""
TAKEN = "a list of dicts, a generator function, a frame of pandas or polars, or a Dataset"
NAME = re.compile(rf"{PREFIX}[A-Za-z_]\w*")
BLOCK = 1000
"""Rows of a frame that are made at a time."""
_given: dict[str, Any] = {}
_digests: dict[tuple[str, str], dict[int, str]] = {}
"""What the rows of a name and split were when they were first read: after 1, 2, 4, … rows, and under END after all."""
END = 0


@contextlib.contextmanager
def giving(options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The options with names in the place of objects, which are sources within the block. Raises ZooError.

    sources: more objects, by the names under which the options mention them.
    """
    named = (str, os.PathLike, type(None))
    objects = {name: options[name] for name in OPTIONS if not isinstance(options.get(name), named)}
    _check_names(sources or {})
    values = {**(sources or {}), **objects}
    paths = {name: os.fspath(options[name]) for name in OPTIONS if isinstance(options.get(name), os.PathLike)}
    for name, value in values.items():
        _check(name, value)
    before = dict(_given)
    _given.update({PREFIX + name: value for name, value in values.items()})
    try:
        yield {**options, **paths, **{name: PREFIX + name for name in objects}}
    finally:
        _given.clear()
        _given.update(before)
        if not before:
            _digests.clear()


def is_given(source: str) -> bool:
    """Whether a source is the name of what a Python program gives."""
    return bool(NAME.fullmatch(source.partition("@")[0]))


def held_out_split(source: str) -> str | None:
    """The split that a mapping of splits keeps for validation; None for anything else."""
    value = _given.get(source)
    return next((name for name in HELD_OUT if name in value), None) if isinstance(value, Mapping) else None


def value_of(name: str, split: str) -> Any:
    """What was given under a name. Raises ZooError where nothing was, or not this split."""
    if name not in _given:
        raise missing(name)
    value = _given[name]
    if isinstance(value, Mapping):
        if split not in value:
            message = f"What {name} names has no split '{split}'.{nearest(split, value)}"
            raise NoSuchSplit(message, f"It has: {', '.join(map(str, value))}. Give rows, or a mapping of splits.")
        return value[split]
    if split != "train":
        raise NoSuchSplit(f"What {name} names has no splits, so no '{split}'.", "Leave out the split.")
    return value


class Given:
    """The rows of what was given under a name. Raises ZooError where nothing was, or not this split.

    limit: the most rows to read.
    """

    def __init__(self, name: str, split: str, limit: int | None = None):
        self.name, self.value, self.limit = name, value_of(name, split), limit
        self._before = _digests.setdefault((name, split), {})
        self._digest = hashlib.sha256()
        self._is_complete = False

    def lines(self) -> Iterator[Line]:
        """The rows, numbered from 1. Raises ZooError where they are not those that were read before."""
        self._digest = hashlib.sha256()
        count = 0
        for count, line in enumerate(lines_of(self.value, self.limit), 1):
            self._digest.update(json.dumps(line.row, sort_keys=True, default=str).encode() + b"\n")
            self._is_complete = count == self.limit
            if count & (count - 1) == 0:
                self._compare(count, count)
            yield line
        self._is_complete = True
        if count != self.limit:
            self._compare(END, count)

    def _compare(self, place: int, count: int) -> None:
        """Raises ZooError where so many rows are not what they were before."""
        digest = f"{count} {self._digest.hexdigest()}"
        if self._before.setdefault(place, digest) != digest:
            raise ZooError(
                f"{self.name} gives other rows each time that they are read: its first {count:,} have changed.",
                "A function must give the same rows each time: fix its seed, or give a list of its rows.",
            )

    def digest(self) -> str:
        """sha256 of the rows."""
        if not self._is_complete:
            for _ in self.lines():
                pass
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def total(self) -> int | None:
        """The number of rows, where it is known without reading them."""
        with contextlib.suppress(TypeError):
            return len(self.value)
        return None

    def about(self) -> dict[str, Any]:
        """What it is, for data.json: its type and its columns, as far as the first row tells."""
        first = next(lines_of(self.value), None)
        return {"type": type_of(self.value), "columns": [] if first is None else list(first.row)}


def missing(name: str, run: str = "RUN") -> ZooError:
    """The error where the program does not give what the name stands for."""
    option = name.removeprefix(PREFIX)
    rows = f"{option}=…" if option in OPTIONS else f"sources={{{option!r}: …}}"
    return ZooError(
        f"{name} stands for rows that a Python program gave; only a program can give them again.",
        f"From Python: zoo.resume({run!r}, {rows}) with the same rows, or zoo.train(…, {rows}).",
    )


def names_in(config: Mapping[str, Any]) -> list[str]:
    """The names of what a program gave, as the options of a run mention them."""
    texts = (str(config.get(option) or "") for option in OPTIONS)
    return list(dict.fromkeys(name for text in texts for name in NAME.findall(text)))


def refuse_missing_data(config: Mapping[str, Any], run: str) -> None:
    """Raises ZooError where the options of a run name what a program gave and now does not."""
    for name in names_in(config):
        if name not in _given:
            raise missing(name, run)


def refuse_other_data(config: Mapping[str, Any], again: Mapping[str, str], sources: Collection[str]) -> None:
    """Raises ZooError for rows in the place of data that a run has read from somewhere else, and for unused rows.

    again: options that are rows, as `giving` names them; sources: names of rows that options mention.
    """
    for option, name in again.items():
        if not is_given(name):
            message = f"{option} is {name!r}, and a resume takes rows from Python alone: it reads files as the run did."
            raise ZooError(message, f"Leave out {option}, or give the rows that the run was given.")
        if config.get(option) != PREFIX + option:
            message = f"{option} of the run is {config.get(option)}, and no rows from Python."
            raise ZooError(message, f"Leave out {option}.")
    for name in sources:
        if PREFIX + name not in names_in(config):
            message = f"sources has {name!r}, which no data of the run mentions."
            raise ZooError(message, f"Write {PREFIX}{name} in data, as in data='0.7*{PREFIX}{name} + 0.3*b.jsonl'.")


def type_of(value: Any) -> str:
    """`pandas.DataFrame`, `list`, `function`."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module in ("builtins", "__main__") else f"{module}.{kind.__name__}"


def _check_names(sources: Any) -> None:
    """Raises ZooError for anything but a mapping of names that a mixture can mention."""
    if not isinstance(sources, Mapping):
        raise ZooError(f"sources is a {type_of(sources)}, not rows by their names.", 'Write sources={"mine": rows}.')
    for name in sources:
        if not is_given(f"{PREFIX}{name}") or name in OPTIONS:
            raise ZooError(f"sources has the name {name!r}.", f"Use letters, digits and _, and none of {OPTIONS}.")


def _check(option: str, value: Any) -> None:
    """Raises ZooError for what cannot be read, or only once."""
    if isinstance(value, Iterator):
        raise ZooError(f"{option} is a {type_of(value)}, which is read only once.", "Give the function that makes it.")
    if callable(getattr(value, "collect", None)):
        raise ZooError(f"{option} is a {type_of(value)}, whose rows are not computed yet.", f"Give {option}.collect().")
    if isinstance(value, Mapping) and not {"train", *HELD_OUT} & {*value} and any(map(_is_column, value.values())):
        columns = ", ".join(map(str, value))
        hint = f"Give a list with a dict for each row, or datasets.Dataset.from_dict({option})."
        raise ZooError(f"{option} is a {type_of(value)} of columns ({columns}), not of rows.", hint)
    for part in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(part, bytes) or not (callable(part) or isinstance(part, Iterable)):
            raise ZooError(f"{option} is a {type_of(value)}, which has no rows.", f"Give a path, a mixture, {TAKEN}.")
        if _is_function(part) and (needed := _arguments(part)):
            hint = f"Give one without arguments: {option}=lambda: {getattr(part, '__name__', 'rows')}(…)."
            raise ZooError(f"{option} is a function that needs arguments: {', '.join(needed)}.", hint)


def _is_column(value: Any) -> bool:
    """Whether it holds values of one column rather than rows."""
    return isinstance(value, list | tuple) and not any(isinstance(one, Mapping) for one in value)


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The arguments without which a function cannot be called."""
    with contextlib.suppress(TypeError, ValueError):
        parameters = inspect.signature(function).parameters.values()
        return [one.name for one in parameters if one.default is one.empty and one.kind not in _OPEN]
    return []


_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of parameters that take what comes: `*rows`, `**options`."""


def lines_of(value: Any, limit: int | None = None) -> Iterator[Line]:
    """The rows of a value, numbered from 1. limit: the most of them."""
    if _is_function(value):
        value = _returned(value)
    if hasattr(value, "with_format") and hasattr(value, "num_rows"):
        from zoo.libraries import tables

        return itertools.islice(arrow_lines(tables.batches(value)), limit)
    return itertools.islice((_line(number, row) for number, row in enumerate(_rows(value), 1)), limit)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Iterable)


def _returned(function: Callable[[], Any]) -> Any:
    """What a function gives in its place. Raises ZooError for something without rows."""
    value = function()
    if isinstance(value, Mapping | str | bytes) or not isinstance(value, Iterable):
        name = getattr(function, "__name__", type_of(function))
        what = "None" if value is None else f"a {type_of(value)}"
        raise ZooError(f"The function {name} gives {what}, which has no rows.", f"Let it give {TAKEN}.")
    return value


def _rows(value: Any) -> Iterable[Any]:
    """The rows of anything but a function and an arrow table."""
    if callable(getattr(value, "iter_rows", None)):
        return value.iter_rows(named=True)
    if hasattr(value, "iloc"):
        blocks = (value.iloc[start : start + BLOCK] for start in range(0, len(value), BLOCK))
        return (row for block in blocks for row in block.to_dict("records"))
    rows: Iterable[Any] = value
    return rows


def _line(number: int, row: Any) -> Line:
    if not isinstance(row, Mapping):
        return Line(number, {}, (RowError("E_TYPE", "row", f"is {describe_row(row)}, not an object"),))
    try:
        return Line(number, {str(column): plain(value) for column, value in row.items()})
    except RecursionError:
        return Line(number, {}, (RowError("E_LIMIT", "row", TOO_DEEP),))


def plain(value: Any) -> Any:
    """A value of a frame as JSON has it: lists for arrays, None for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | type(None)):
        return value
    if callable(getattr(value, "tolist", None)):
        return plain(value.tolist())
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    """Whether a value is no number; pandas has one whose comparison is neither true nor false."""
    try:
        return bool(value != value)
    except TypeError:
        return True
