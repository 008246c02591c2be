"""Content keys: a hash of everything that a stage's result depends on.

Options that only name or display something do not count. A path of another stage counts as that stage's key, a local
file as its bytes, and a name from a plugin (a source, a reward, an evaluation) as its source code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.data.sources.mixture import read_mixture
from zoo.options.config import FREE
from zoo.options.roles import ROLES, model_options
from zoo.paths import typed_path

DATA = ("data", "eval_data", "decay_data")
"""Options that name data."""
OF_MODELS = {role.option: role for role in ROLES.values()}
PATHS = ("start", *model_options(), *DATA)
"""Options whose value may be a file or folder."""
LONGEST_PATH = 1000
LARGEST_READ = 64 << 20
"""In bytes; larger files count by size and time instead of content."""


def digest(content: Any) -> str:
    """The key of a value of JSON types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def stage_key(
    options: Mapping[str, Any], made: Mapping[str, str], contributed: Mapping[str, Any], code: Iterable[Any] = ()
) -> str:
    """The key of a stage.

    options: all its options; made: `{path: key}` of the stages that it uses; contributed: contributions of plugins by
    name; code: further functions or classes whose source counts, such as the algorithm's.
    """
    counted = {key: value for key, value in options.items() if key not in FREE}
    named = [(key, text) for key, value in counted.items() for text in _texts(value)]
    named += [(key, name) for key, text in named if key in OF_MODELS for name in OF_MODELS[key].models(text).values()]
    named += [(key, part.source) for key, text in named if key in DATA for part in read_mixture(text, contributed)]
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
    return [text for item in inside for text in _texts(item)]


def _without_paths(value: Any, made: Mapping[str, str]) -> Any:
    """The value with paths replaced by keys, the longest first, because one path may begin another."""
    if isinstance(value, str):
        for path in sorted(made, key=len, reverse=True):
            value = value.replace(path, made[path])
        return value
    if isinstance(value, Mapping):
        return {key: _without_paths(item, made) for key, item in value.items()}
    return [_without_paths(item, made) for item in value] if isinstance(value, list | tuple) else value


def _is_local(key: str, text: str) -> bool:
    """Whether a text names a local file or folder; a single word does so only as a model or data."""
    if len(text) > LONGEST_PATH or "\n" in text or not ("/" in text or "." in text or key in PATHS):
        return False
    return os.path.exists(os.path.expanduser(text))


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def file_digest(path: str) -> str:
    """A hash of the bytes of a file, or of the names and bytes of all files of a folder."""
    place = typed_path(path)
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(str(file.relative_to(place)).encode() + b"\0")
        facts = file.stat()
        if facts.st_size > LARGEST_READ:
            hashed.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
        else:
            hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()[:24]


def code_digest(thing: Any) -> str:
    """A hash of the source of a function or class: its file, or all files of its package's folder. Empty if unknown."""
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
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()[:24]
