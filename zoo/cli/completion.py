"""What a shell offers behind `zoo train`, `zoo resume` and `zoo chat`: algorithms, runs, their checkpoints."""

from __future__ import annotations

import os

from zoo.contract import registry


def is_completion() -> bool:
    """Whether a shell asks how a line may go on."""
    return "_ZOO_COMPLETE" in os.environ


AT_ONCE = """
if [[ $funcstack[1] == _%(prog_name)s ]]; then
  %(complete_func)s "$@"
fi
"""


def mend_zsh() -> None:
    """Let zsh complete at the first tab: typer's file then only defines what completes from the second on."""
    from typer import _completion_shared

    scripts = _completion_shared._completion_scripts
    if AT_ONCE not in scripts["zsh"]:
        scripts["zsh"] += AT_ONCE


def algorithm_names(incomplete: str) -> list[str]:
    return [entry.name for entry in registry.algorithms() if entry.name.startswith(incomplete)]


def run_names(incomplete: str) -> list[str]:
    from zoo.runs import find_runs

    return [name for name in ("last", *(run.name for run in find_runs())) if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Runs, and behind `run@` its checkpoints."""
    from zoo.errors import ZooError
    from zoo.runs import find_run, saved_steps

    named, at, _ = incomplete.rpartition("@")
    if not at:
        return run_names(incomplete)
    try:
        steps = saved_steps(find_run(named))
    except ZooError:
        return []
    names = [f"{named}@{which}" for which in ("last", *(f"step-{step}" for step in steps))] if steps else []
    return [name for name in names if name.startswith(incomplete)]
