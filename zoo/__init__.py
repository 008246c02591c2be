"""zoo: a plugin-based zoo of post-training algorithms for language models."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoo.comparison.calls import compare
    from zoo.evals.calls import chat, evaluate
    from zoo.models.start import load
    from zoo.report.notebook import plot
    from zoo.runs import load_run
    from zoo.training.run import resume, train

__all__ = ["__version__", "chat", "compare", "evaluate", "load", "load_run", "plot", "resume", "train"]

_HOMES = {
    "chat": "zoo.evals.calls",
    "compare": "zoo.comparison.calls",
    "evaluate": "zoo.evals.calls",
    "load": "zoo.models.start",
    "load_run": "zoo.runs",
    "plot": "zoo.report.notebook",
    "resume": "zoo.training.run",
    "train": "zoo.training.run",
}


def __getattr__(name: str) -> Any:
    """`zoo.train` and the others load torch only when they are asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    # With the module, Python itself proposes the nearest name.
    raise AttributeError(f"module 'zoo' has no attribute '{name}'", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted(__all__)
