"""What a shell offers behind `zoo train --algo` and `zoo resume`: names of algorithms and of runs."""

from __future__ import annotations

import os

from zoo.contract import registry


def is_completion() -> bool:
    """Whether a shell asks how a line may go on."""
    return "_ZOO_COMPLETE" in os.environ


def algorithm_names(incomplete: str) -> list[str]:
    return [entry.name for entry in registry.algorithms() if entry.name.startswith(incomplete)]


def run_names(incomplete: str) -> list[str]:
    from zoo.runs import find_runs

    return [name for name in ("last", *(run.name for run in find_runs())) if name.startswith(incomplete)]
