"""Cards on disk: each is a file, valid until one of the source files behind it changes."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import zoo
from zoo.contract.descriptions import source_of
from zoo.paths import cache_folder, unique_beside

LIBRARIES = ("site-packages", "dist-packages")


def read(what: str, place: Sequence[str]) -> Any:
    """The card of a place, None if there is none that is complete and up to date."""
    try:
        stored = json.loads(_file(what, place).read_text(encoding="utf-8"))
        good = all(_digest(file) == digest for file, digest in stored["files"].items())
        return stored["card"] if good and stored["place"] == [*place, *_here()] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(what: str, place: Sequence[str], card: Any, files: Iterable[str]) -> None:
    """Store a card. If the cache cannot be written, nothing happens."""
    with contextlib.suppress(OSError):
        file = _file(what, place)
        content = {"place": [*place, *_here()], "files": {name: _digest(name) for name in files}, "card": card}
        with unique_beside(file) as beside:
            beside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            os.replace(beside, file)


def files_behind(*things: Any) -> list[str]:
    """The files that classes or functions depend on: their own, those of their bases, and what these import.

    Files of zoo, the standard library and installed libraries are left out, because their versions count.
    """
    owners = [base for thing in things for base in getattr(thing, "__mro__", (thing,))]
    return files_of(*(sys.modules.get(str(getattr(owner, "__module__", ""))) for owner in owners))


def files_of(*modules: ModuleType | None) -> list[str]:
    """The same for modules."""
    waiting = list(modules)
    tops = {module.__name__.split(".")[0] for module in waiting if module is not None}
    files: dict[str, None] = {}
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if module is not None and file and file not in files and _is_own(module, file, tops):
            files[file] = None
            waiting += _imported(module, file)
    return list(files)


def _is_own(module: ModuleType, file: str, tops: set[str]) -> bool:
    top = module.__name__.split(".")[0]
    if top in ("zoo", "__main__") or top in sys.stdlib_module_names or not file.endswith(".py"):
        return False
    return top in tops or not any(part in LIBRARIES for part in Path(file).parts)


def _imported(module: ModuleType, file: str) -> list[ModuleType | None]:
    """The modules that a module's source imports, as far as they are loaded."""
    return [sys.modules.get(name) for name in _names(Path(file), module.__package__ or "")]


def _names(file: Path, package: str) -> set[str]:
    """The modules that a source may import, and what may be a module in them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (start, node.module or "")))
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return names


def sources_behind(place: str) -> list[Path]:
    """The same as `files_behind` for a module or the path of a file, found without importing anything.

    Raises ImportError, OSError or SyntaxError for a place without a source.
    """
    top, files = place.split(".")[0], dict[Path, None]()
    waiting = [(place, Path(place))] if Path(place).is_file() else [(place, source_of(place))]
    while waiting:
        module, file = waiting.pop()
        if file in files or file.suffix != ".py":
            continue
        files[file] = None
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for name in sorted(_names(file, package)):
            if (found := _own_source(name, top)) is not None:
                waiting.append((name, found))
    return sorted(files)


def _own_source(name: str, top: str) -> Path | None:
    """The source of a module that is neither zoo's nor Python's nor another library's."""
    first = name.split(".")[0]
    if not first or first == "zoo" or first in sys.stdlib_module_names:
        return None
    try:
        file = source_of(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return file if first == top or not any(part in LIBRARIES for part in file.parts) else None


def _file(what: str, place: Sequence[str]) -> Path:
    key = hashlib.sha256("\0".join(place).encode()).hexdigest()[:24]
    return cache_folder() / "cards" / f"{what}-{key}.json"


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@cache
def _here() -> tuple[str, str]:
    """This Python and this zoo, by sizes and times of all its files, as Python decides whether to compile again."""
    digest = hashlib.sha256()
    for folder, folders, files in sorted(os.walk(Path(zoo.__file__).parent)):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in sorted(files):
            if name.endswith(".py"):
                facts = os.stat(os.path.join(folder, name))
                digest.update(f"{folder}/{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return f"{sys.version_info.major}.{sys.version_info.minor}", digest.hexdigest()
