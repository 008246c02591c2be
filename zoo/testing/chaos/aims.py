"""An aim: what a trial makes, kills and reads back. Two functions are enough; a run of training has more."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ZooError


@dataclass(frozen=True)
class Aim:
    """What is killed. Each trial has a folder of its own, which is the working folder of its processes."""

    name: str
    """What results are counted under."""
    make: Callable[[Path], None]
    """Makes the files in a folder. After a kill it is called again in the same folder, and must not mind what is there
    (unless there is `resume`)."""
    read: Callable[[Path], Mapping[str, Any]]
    """What was made, by name: equal, however often it was killed. Raises an exception where it cannot be read."""
    resume: Callable[[Path], None] | None = None
    """Goes on after a kill, where `begun` says so."""
    begun: Callable[[Path], bool] = lambda folder: False
    """Whether there is something in the folder to go on with."""
    prepare: Callable[[Path], None] = lambda folder: None
    """Called in the folder above, before the first trial: makes what all of them read."""
    warm: Callable[[Path], None] = lambda folder: None
    """Called once in the folder of the unbroken making, in the process that forks: does what each fork would do."""
    phases: Mapping[str, str] = field(default_factory=dict)
    """Functions as "module:Class.method", and what they are doing; see `zoo.testing.chaos.phases`."""
    steps: str = ""
    """The function that makes a step; a kill counts only if a step was made after it, or if none was left."""
    processes: int = 1
    resumed: int = 0
    """Processes that go on after a kill; 0 for as many as before."""
    same: Callable[[Any, Any], bool] = operator.eq
    """Whether two values of `read` are equal."""
    damage: Callable[[Path, Any], str] | None = None
    """Damages a file that is checked when it is read; given a folder and a random.Random, says what was done."""


def find_aim(text: str) -> Aim:
    """The aim at "module:name". Raises ZooError."""
    module, _, name = text.partition(":")
    try:
        aim = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ZooError(f"There is no aim {text}: {error}.", "Write --aim module:name, an Aim in a module.") from None
    if not isinstance(aim, Aim):
        raise ZooError(f"{text} is no Aim but {type(aim).__name__}.", "See docs/chaos.md, 'Another kind of file'.")
    return aim
