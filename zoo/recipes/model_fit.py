"""Whether a model that a recipe names can exist, without fetching or making it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.models.default import NAME
from zoo.runs import is_run_name

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")


def model_problem(name: str, makers: Mapping[str, Any]) -> str:
    """Why there can be no such model; empty if there may be. makers: contributions of plugins to the hook `models`."""
    path = Path(name).expanduser()
    if name == NAME or path.exists() or is_run_name(name):
        return ""
    first, colon, part = name.partition(":")
    if first in makers:
        check = getattr(makers[first], "check", None)
        try:
            if check is not None:
                check(part)
        except ZooError as error:
            return f"{error.message} {error.hint}".strip()
        return ""
    if colon or "(" in name:
        first = first.partition("(")[0]
        return f"no plugin makes a model '{first}'.{nearest(first, makers)}"
    if name.startswith((".", "/", "~")) or path.suffix == ".gguf":
        return f"there is no model at {name}."
    if not _HUB.fullmatch(name) and (guess := nearest(name, [NAME, *makers])):
        return f"there is no model '{name}'.{guess}"
    return ""
