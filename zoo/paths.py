"""Folders of zoo's own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where models and what was computed once are kept: $ZOO_CACHE, or zoo/ in the user's cache folder."""
    given = os.environ.get("ZOO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "zoo"
