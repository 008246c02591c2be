"""What a resumed run compares with its start: other data is refused, other libraries are reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import TrainingFailed, ZooError
from zoo.runs import BEST, Run, environment


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
    if run.status == "failed":
        tidy(run)
        raise TrainingFailed(
            str(run.summary.get("reason")),
            f"{run.summary.get('hint')} Going on would change nothing; to make it again, remove {run.path} first.",
        )


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
