"""Content keys: what a stage's result depends on, as one short text that changes when any of it does.

Options that only name or show something do not count. A path of another stage counts as that stage's key, a local file
as its bytes, and a name that a plugin brings (a source, a reward, an evaluation) as the code that it came from.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from zoo import __version__

NOT_CONTENT = ("name", "out", "loggers", "keep_checkpoints", "save_every")
"""Options that change what is kept or where, never what comes out."""
PATHS = ("start", "model", "reference", "critic_model", "judge", "data", "eval_data", "decay_data")
"""Options whose value may be the name of a file or folder."""
LONGEST_PATH = 1000
LARGEST_READ = 64 << 20
"""Bytes; of larger files size and time stand for the content."""


def digest(content: Any) -> str:
    """The key of JSON types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def stage_key(
    options: Mapping[str, Any], made: Mapping[str, str], contributed: Mapping[str, Any], code: Iterable[Any] = ()
) -> str:
    """The key of a stage.

    options: all it is run with; made: `{path: key}` of the stages that it uses; contributed: what plugins bring, by
    name; code: further functions or classes whose source counts, such as the algorithm's.
    """
    counted = {key: value for key, value in options.items() if key not in NOT_CONTENT}
    named = [(key, text) for key, value in counted.items() for text in _texts(value)]
    texts = [text for _, text in named]
    content = {key: _without_paths(value, made) for key, value in counted.items()}
    files = {text: file_digest(text) for key, text in named if text not in made and _is_local(key, text)}
    used = [thing for name, thing in contributed.items() if any(_mentions(text, name) for text in texts)]
    sources = sorted({code_digest(thing) for thing in [*code, *used]})
    return digest([content, files, sources, __version__])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for one in inside for text in _texts(one)]


def _without_paths(value: Any, made: Mapping[str, str]) -> Any:
    """The value with keys in the place of paths, the longest first: one may be the beginning of another."""
    if isinstance(value, str):
        for path in sorted(made, key=len, reverse=True):
            value = value.replace(path, made[path])
        return value
    if isinstance(value, Mapping):
        return {key: _without_paths(one, made) for key, one in value.items()}
    return [_without_paths(one, made) for one in value] if isinstance(value, list | tuple) else value


def _is_local(key: str, text: str) -> bool:
    """Whether a text names a file or folder here; a lone word does so only where a model or data is meant."""
    if len(text) > LONGEST_PATH or "\n" in text or not ("/" in text or "." in text or key in PATHS):
        return False
    return Path(text).expanduser().exists()


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def file_digest(path: str) -> str:
    """Of the bytes of a file, or of all files of a folder by their names."""
    place = Path(path).expanduser()
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    found = hashlib.sha256()
    for file in files:
        found.update(str(file.relative_to(place)).encode() + b"\0")
        facts = file.stat()
        if facts.st_size > LARGEST_READ:
            found.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
        else:
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:24]


def code_digest(thing: Any) -> str:
    """Of the source of a function or class: its file, and the others of its package beside it. Empty where unknown."""
    while isinstance(thing, partial):
        thing = thing.func
    for inner in ("run", "rows"):
        thing = getattr(thing, inner, thing) if not inspect.isroutine(thing) and not inspect.isclass(thing) else thing
    module = sys.modules.get(getattr(inspect.unwrap(thing), "__module__", "") or "")
    file = getattr(module, "__file__", None)
    if not file:
        return ""
    folder = Path(file).parent
    return _sources_digest(folder if (folder / "__init__.py").is_file() else Path(file))


@lru_cache
def _sources_digest(place: Path) -> str:
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:24]
