"""Canonical records as JSON, in which every value comes back as it was: dates and bytes of tables too."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from zoo.errors import ZooError

MARK = "\0"
"""The key of a value that JSON does not have; no data has a NUL character in a key."""
OTHERS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    time: ("time", time.isoformat, time.fromisoformat),
    timedelta: (
        "timedelta", lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(parts[0], parts[1], parts[2]),
    ),
    Decimal: ("decimal", str, Decimal),
    UUID: ("uuid", str, UUID),
    bytes: ("bytes", lambda value: b64encode(value).decode(), b64decode),
    tuple: ("tuple", list, tuple),
}  # fmt: skip
"""Types that JSON does not have: a name, the way there and the way back."""
READERS = {name: back for name, _, back in OTHERS.values()}


def as_json(record: dict[str, Any]) -> bytes:
    """A record as JSON. Raises ZooError for a value of a type that cannot be kept."""
    try:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=_other)
    except TypeError as error:
        raise ZooError(
            f"Row {record.get('row')}: {error}, which cannot be kept beside the encoded rows.",
            "Write this column as text or numbers, or leave it out of the file.",
        ) from None
    return text.encode(errors="surrogatepass")


def from_json(text: bytes) -> dict[str, Any]:
    """The record that `as_json` wrote."""
    plain = text.decode(errors="surrogatepass")
    return json.loads(plain, object_hook=_read) if "\\u0000" in plain else json.loads(plain)


def marked(value: Any) -> Any:
    """A value in which tuples are marked, which JSON would make lists."""
    if isinstance(value, tuple):
        return {MARK: "tuple", "value": [marked(item) for item in value]}
    if isinstance(value, list):
        return [marked(item) for item in value]
    return {name: marked(item) for name, item in value.items()} if isinstance(value, dict) else value


def _other(value: Any) -> Any:
    if type(value) not in OTHERS:
        raise TypeError(f"a column holds a {type(value).__name__}")
    name, write, _ = OTHERS[type(value)]
    return {MARK: name, "value": write(value)}


def _read(value: dict[str, Any]) -> Any:
    return READERS[value[MARK]](value["value"]) if MARK in value else value
