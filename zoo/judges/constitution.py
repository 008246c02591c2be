"""Constitutions: files of principles by which answers are criticised, revised and compared (arXiv:2212.08073)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from zoo.errors import ZooError, nearest
from zoo.options.strict_yaml import read_yaml

SHIPPED = {"default": Path(__file__).parent / "constitution.yaml"}


@dataclass(frozen=True)
class Principle:
    """One principle. id: its name in records and reports; critique_request: asks how an answer violates it;
    revision_request: asks for a better answer; comparison: asks which of two answers follows it better."""

    id: str
    critique_request: str
    revision_request: str
    comparison: str


NAMES = tuple(field.name for field in fields(Principle))


def load_constitution(path_or_name: str | Path = "default") -> list[Principle]:
    """The principles of a YAML file (`principles:`, a list), or of a shipped constitution by its name.

    Raises ZooError that names the file, the principle and the key.
    """
    name = str(path_or_name)
    if name not in SHIPPED and not Path(name).is_file():
        shipped = ", ".join(SHIPPED)
        raise ZooError(
            f"There is no constitution '{name}'.{nearest(name, SHIPPED)}",
            f"Give a YAML file, or a bundled constitution: {shipped}. docs/judges.md describes the format.",
        )
    file = SHIPPED.get(name, Path(name))
    content = read_yaml(file).get("principles")
    if not isinstance(content, list) or not content:
        raise ZooError(f"{file}: there is no list of principles.", "Begin the file with `principles:`.")
    principles = [_principle(entry, f"{file}: principle {number}") for number, entry in enumerate(content, start=1)]
    seen: set[str] = set()
    for principle in principles:
        if principle.id in seen:
            raise ZooError(f"{file}: two principles are called '{principle.id}'.", "Each needs an id of its own.")
        seen.add(principle.id)
    return principles


def _principle(content: object, where: str) -> Principle:
    if not isinstance(content, dict):
        raise ZooError(f"{where} is not a mapping.", f"It needs {', '.join(NAMES)}.")
    for key in content:
        if key not in NAMES:
            raise ZooError(f"{where}: there is no key '{key}'.{nearest(key, NAMES)}", f"Keys: {', '.join(NAMES)}.")
    for key in NAMES:
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise ZooError(f"{where} has no text under '{key}'.", f"It needs {', '.join(NAMES)}.")
    return Principle(**{key: content[key].strip() for key in NAMES})


def constitution_id(principles: Sequence[Principle]) -> str:
    """The first eight hexadecimal digits of a hash of the texts."""
    return hashlib.sha256(json.dumps([asdict(principle) for principle in principles]).encode()).hexdigest()[:8]
