"""Data sets of the Hugging Face hub, or their copies in the local cache."""

from __future__ import annotations

from typing import Any

from zoo.errors import ZooError


def open_hub(name: str, split: str) -> tuple[Any, str]:
    """The arrow batches of `owner/name` or `owner/name:config`, and a fingerprint. Raises ZooError."""
    from zoo.libraries import tables

    table = _loaded(name, split)
    return tables.batches(table), f"datasets:{tables.fingerprint(table)}"


def stream_hub(name: str, split: str) -> Any:
    """The same data set as a table that is read as it comes. Raises ZooError."""
    return _loaded(name, split, streaming=True)


def _loaded(name: str, split: str, streaming: bool = False) -> Any:
    from zoo.libraries import tables

    path, _, config = name.partition(":")
    try:
        return tables.load_hub(path, config or None, split, streaming)
    except ZooError:
        raise
    except ConnectionError as error:
        raise ZooError(
            f"The hub data set {name} cannot be reached and is not in the local cache "
            f"({_first_line(error)}): give the path of a local file or folder instead.",
            hint="For example --data ./my-data.jsonl",
        ) from None
    except ValueError as error:
        # Unknown configuration or split: the first line of the library's message names those that exist.
        raise ZooError(
            f"The hub data set {name} has no such part: {_first_line(error)}.",
            hint=f"Write {path}:CONFIG@SPLIT with one of the names above.",
        ) from None
    except Exception as error:
        raise ZooError(
            f"The hub data set {name} cannot be loaded: {_first_line(error)}.",
            hint="Check the name (a private data set needs a login to the hub), or give the "
            "path of a local file or folder.",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
