"""`zoo cache`: what the cache folder holds, and clearing it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from zoo.cli.listings import Json
from zoo.errors import ZooError, nearest
from zoo.numbers import amount, seconds_in, size
from zoo.paths import cache_folder
from zoo.runs import hold
from zoo.terminal import Console, plain, print_json

KINDS = {
    "data": "encoded rows",
    "models": "models that were fetched, unpacked or merged",
    "reference": "log-probs of reference models",
    "answers": "answers that were written before training",
    "judgements": "responses of judges",
    "worlds": "models of worlds",
    "cards": "what algorithms declare",
}
"""The folders of the cache that can be cleared, and what each holds."""
CLEAR = "clear"


@dataclass
class Entry:
    """One thing in the cache. age: seconds since it was written or, for data, used."""

    kind: str
    what: str
    path: str
    size: int
    age: float


def cache(
    verb: Annotated[str | None, typer.Argument(help="clear removes entries; by default all are listed.")] = None,
    kind: Annotated[str | None, typer.Option(help=f"Only this kind: {', '.join(KINDS)}.")] = None,
    older: Annotated[str | None, typer.Option(help="Only what was not used for so long: 30d, 12h.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Clear all kinds, whatever their age.")] = False,
    as_json: Json = False,
) -> None:
    """List what the cache holds (encoded data, models, log-probs), with sizes and ages, or clear it."""
    entries = _chosen(kind, older)
    if verb is None:
        if everything:
            raise ZooError("--all says what is cleared, and without clear nothing is.", "Write zoo cache clear --all.")
        print_json([asdict(entry) for entry in entries]) if as_json else _show(entries)
        return
    if verb != CLEAR:
        raise ZooError(f"zoo cache cannot {verb}.{nearest(verb, [CLEAR])}", "Write zoo cache, or zoo cache clear.")
    if not (kind or older or everything):
        raise ZooError("What is to be cleared?", "Write --older 30d, --kind data, or --all.")
    failures: list[str] = []
    removed = [entry for entry in entries if _remove(entry, Console().say, failures)]
    print_json([asdict(entry) for entry in removed]) if as_json else _tell(removed)
    if failures:
        raise typer.Exit(1)


def _chosen(kind: str | None, older: str | None) -> list[Entry]:
    """The entries of a kind and age, the largest first. Raises ZooError."""
    if kind is not None and kind not in KINDS:
        raise ZooError(f"The cache has no kind '{kind}'.{nearest(kind, KINDS)}", f"Kinds: {', '.join(KINDS)}.")
    try:
        least = seconds_in(older) if older else 0.0
    except ValueError as error:
        raise ZooError(f"--older {older}: {error}.", "Write 30d, 12h or 90m.") from None
    found = [entry for name in KINDS if kind in (None, name) for entry in _entries(name) if entry.age >= least]
    return sorted(found, key=lambda entry: -entry.size)


def _entries(kind: str) -> Iterator[Entry]:
    folder = cache_folder() / kind
    if not folder.is_dir():
        return
    for path in [folder] if kind == "cards" else sorted(folder.iterdir()):
        if kind == "data" and not path.is_dir():
            continue
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        with contextlib.suppress(OSError):
            states = [file.stat() for file in files]
            last = max((state.st_mtime for state in states), default=path.stat().st_mtime)
            total = sum(state.st_size for state in states)
            yield Entry(kind, _what(kind, path), str(path), total, max(0.0, time.time() - last))


def _what(kind: str, path: Path) -> str:
    """An entry in words."""
    if kind != "data":
        return path.stem if path.is_file() else path.name
    try:
        facts = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return f"{facts['source']} as {facts['kind']}, {amount(facts['rows'], 'row')}"
    except (OSError, ValueError, KeyError):
        return "encoding that is not finished"


def _remove(entry: Entry, say: Callable[[str], None], failures: list[str]) -> bool:
    """Remove an entry, unless a process is making it. failures: gets the path of one that cannot be removed."""
    path = Path(entry.path)
    try:
        with hold(path, f"{path} is in use.", "zoo cache clear") if path.is_dir() else contextlib.nullcontext():
            # Nothing may be taken for whole while it goes.
            (path / "manifest.json").unlink(missing_ok=True) if path.is_dir() else path.unlink()
            if path.is_dir():
                shutil.rmtree(path)
    except ZooError as error:
        say(f"{path} stays: {error.message}")
        return False
    except OSError as error:
        say(f"{path} cannot be removed: {error.strerror}.")
        failures.append(entry.path)
        return False
    return True


def _show(entries: list[Entry]) -> None:
    console = Console()
    if not entries:
        console.say(f"{cache_folder()} holds nothing of that.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "what", "size", "age"):
        table.add_column(name, justify="right" if name in ("size", "age") else "left", overflow="fold")
    for entry in entries:
        table.add_row(entry.kind, plain(entry.what), size(entry.size), _age(entry.age))
    console.print(table)
    total = sum(entry.size for entry in entries)
    console.print(f"\n{size(total)} in {cache_folder()}. zoo cache clear --older 30d removes what was not used lately.")


def _tell(removed: list[Entry]) -> None:
    console = Console()
    for entry in removed:
        console.say(f"Removed {entry.kind}: {entry.what} ({size(entry.size)}, {_age(entry.age)} old)")
    console.say(f"{len(removed)} removed, {size(sum(entry.size for entry in removed))}.")


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
