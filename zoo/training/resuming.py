"""What a resumed run compares with its start: other data is refused, other libraries are reported."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import TrainingFailed, ZooError
from zoo.runs import BEST, Run, environment

OPTIONS = "options"
"""The key of the summary of a run that a guard has stopped: the digest of the options it had."""


def check_data(run: Run, facts: Mapping[str, Any], change_allowed: bool) -> None:
    """Raises ZooError when the data has changed since the run began. facts: as in data.json."""
    before = run.read_json("data.json")
    for part in facts:
        if before.get(part, {}).get("fingerprint") != facts[part]["fingerprint"] and not change_allowed:
            raise ZooError(
                f"The data of {run.name} ({part}) is not what the run began with.",
                "Put the old file back, or accept the change: zoo resume --allow-data-change",
            )


def compare_environment(run: Run, say: Callable[[str], None]) -> None:
    """Report libraries whose version has changed since the run began."""
    before, now = run.read_json("environment.json").get("packages", {}), environment()["packages"]
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        listed = ", ".join(f"{name} {before[name]} is now {now[name]}" for name in changed)
        say(f"Since the run began {listed}: the result may differ in its last digits.")


def refuse_ended(run: Run) -> None:
    """Raises ZooError for a run that is complete, TrainingFailed for one that has failed and would fail again."""
    if run.is_complete:
        raise ZooError(f"The run {run.name} is finished.", f"Its model is in {run.model_path}.")
    if run.status != "failed":
        return
    begin_again = f"to make it again, remove {run.path} first."
    hint = f"{run.summary.get('hint')} Going on would change nothing; {begin_again}"
    if OPTIONS in run.summary:
        if run.summary[OPTIONS] != options_digest(run):
            return
        hint = (
            f"{run.summary.get('hint')} With the same options it would end in the same way. Change them in "
            f"{run.path / 'run.yaml'} and type this again, or {begin_again}"
        )
    else:
        tidy(run)
    raise TrainingFailed(str(run.summary.get("reason")), hint)


def options_digest(run: Run) -> str:
    return hashlib.sha256((run.path / "run.yaml").read_bytes()).hexdigest()


def tidy(run: Run) -> None:
    """Remove from a run that has ended what only a resume needs, and what a kill left half-written."""
    from zoo.training.record.callbacks import forget_checkpoints

    (run.path / BEST).unlink(missing_ok=True)
    forget_checkpoints(run)
    for leftover in run.path.glob(".tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
