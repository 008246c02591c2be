"""zoo: a plugin-based zoo of post-training algorithms for language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoo.training.run import resume, train

__all__ = ["__version__", "resume", "train"]


def __getattr__(name: str) -> Any:
    """`zoo.train` and `zoo.resume` load torch only when they are asked for."""
    if name in ("train", "resume"):
        from zoo.training import run

        return getattr(run, name)
    raise AttributeError(f"module 'zoo' has no attribute '{name}'")
