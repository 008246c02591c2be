"""The names of lm-eval's tasks, read from its files: importing the library and asking it takes ten times as long."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

NAMED = re.compile(r"^(?:task|group): *[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)
"""The line of a file that names its task, or a group of tasks such as mmlu."""
LM_EVAL = ("lm_eval", "lm-eval")
"""The package, and the extra that brings it."""


def task_names() -> set[str]:
    """All names; empty if lm-eval is not installed. Tasks that lm-eval makes by programs are missing."""
    found = importlib.util.find_spec(LM_EVAL[0])
    places = found.submodule_search_locations if found else None
    files = [file for place in places or () for file in Path(place, "tasks").rglob("*.yaml")]
    return {name for file in files for name in NAMED.findall(file.read_text(encoding="utf-8", errors="replace"))}
