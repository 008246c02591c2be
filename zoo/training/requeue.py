"""The same command again: a scheduler that starts a job anew types what it typed before, and the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.models.names import by_path
from zoo.options.config import FREE, TOLD, Resolved
from zoo.options.roles import Role
from zoo.runs import Run, find_runs

Stored = Callable[[Run], Resolved]
"""Gives the options that a run has begun with."""
JOB = "job.json"
"""The file of a run that was begun in a job of SLURM, with the job's number."""


def job_facts() -> dict[str, Any]:
    """`{"job": {"id": …}}` in a job of SLURM: a file for the run folder."""
    number = os.environ.get("SLURM_JOB_ID")
    return {"job": {"id": number}} if number else {}


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0").isdigit() and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def run_to_go_on(resolved: Resolved, stored: Stored, asked: bool) -> Run | None:
    """The run that the same command has begun before; None where there is none, or where nobody asks for it.

    asked: --resume was typed; a job that SLURM has requeued asks too, for the runs that it began itself. stored: gives
    the options of a run as `Resolved`. Raises ZooError for --resume without a name, or with other options than before
    that change the result.
    """
    core = resolved.core
    if not asked:
        own = [run for run in find_runs(core.out) if _is_of_this_job(run)] if is_requeued() else []
        return next((run for run in own if _is_named(run, core.name) and not _differing(resolved, run, stored)), None)
    if core.name is None:
        raise ZooError("--resume finds a run by its name.", "Add --name NAME, or type: zoo resume last")
    run = Run(Path(core.out).expanduser() / core.name)
    if not (run.path / "run.yaml").is_file():
        return None
    if differing := _differing(resolved, run, stored):
        listed = "; ".join(f"{name} was {before!r}, now {now!r}" for name, (before, now) in differing.items())
        raise ZooError(
            f"The run {run.name} was begun with other options: {listed}.",
            f"Type them as before, choose another --name, or go on with the old ones: zoo resume {run.typed}",
        )
    return run


def _is_of_this_job(run: Run) -> bool:
    return "SLURM_JOB_ID" in os.environ and run.read_json(JOB).get("id") == os.environ["SLURM_JOB_ID"]


def _is_named(run: Run, name: str | None) -> bool:
    return name is None or run.name == name


def _differing(now: Resolved, run: Run, stored: Stored) -> dict[str, tuple[Any, Any]]:
    """The options that differ, as (before, now). Another algorithm is not asked for its options: it may be a file."""
    if run.config.get("algo") != now.algo:
        return {"algo": (run.config.get("algo"), now.algo)}
    old, new = stored(run).as_dict(), now.as_dict()
    for role in now.roles.values():
        if role.head == "lm" and new[role.option]:
            new[role.option] = _as_stored(role, old[role.option], new[role.option], now.core.out)
    return {
        name: (old.get(name), value)
        for name, value in new.items()
        if name not in (*FREE, *TOLD) and old.get(name) != value
    }


def changes(now: Resolved, run: Run, stored: Stored) -> dict[str, Any]:
    """The options that need not stay what they were and did not, as they are now."""
    old = stored(run).as_dict()
    free = [name for name in (*FREE, *TOLD) if name not in ("name", "out")]
    return {name: value for name, value in now.as_dict().items() if name in free and old.get(name) != value}


def _as_stored(role: Role, old: Any, new: str, out: str) -> Any:
    """The models of a role as run.yaml has them, where a run stands by its path."""
    if any(model.split("@")[-1] == "last" for model in role.models(new).values()):
        # `last` is another run or checkpoint by now.
        return old
    return role.with_models(new, lambda model: by_path(model, out))
