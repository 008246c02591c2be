"""zoo: a plugin-based zoo of post-training algorithms for language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoo.models.start import load
    from zoo.training.run import resume, train

__all__ = ["__version__", "load", "resume", "train"]

_HOMES = {"load": "zoo.models.start", "resume": "zoo.training.run", "train": "zoo.training.run"}


def __getattr__(name: str) -> Any:
    """`zoo.train` and the others load torch only when they are asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute '{name}'")
