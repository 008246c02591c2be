"""The lines that start a run in several processes: torchrun's on each machine, or a job of SLURM."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ZooError
from zoo.runs import find_run
from zoo.training.resuming import ended

COMMANDS = ("train", "resume")
"""Commands that several processes can run together."""
PORT = 29400
"""Where torchrun's processes meet if no port is named."""
LEFT_TIME = 300
"""Seconds before the end of a job at which SLURM sends its signal."""


@dataclass(frozen=True)
class Launch:
    """A run to start: its command, and how many processes on how many machines."""

    arguments: tuple[str, ...]
    devices: int
    num_nodes: int
    name: str
    accelerator: str = "auto"

    @property
    def command(self) -> str:
        return shlex.join(["zoo", *self.arguments])

    def torchrun(self, rendezvous: str | None) -> list[str]:
        """torchrun's arguments on each machine. rendezvous: of several, HOST or HOST:PORT. Raises ZooError."""
        one = self.num_nodes == 1
        if not one and rendezvous is None:
            raise ZooError(
                f"torchrun on {self.num_nodes} machines needs to know where they meet.",
                "Name one of them, reachable from all: --rendezvous HOST:29500",
            )
        if one and rendezvous is not None:
            raise ZooError("--rendezvous is for several machines, and --num-nodes is 1.", "Leave --rendezvous out.")
        where = ["--standalone"] if one else [
            "--nnodes", str(self.num_nodes), "--rdzv-backend", "c10d", "--rdzv-id", self.name, "--rdzv-endpoint",
            endpoint(str(rendezvous)),
        ]  # fmt: skip
        return [*where, "--nproc-per-node", str(self.devices), "-m", "zoo", *self.arguments]

    def job(self, options: Sequence[str]) -> str:
        """The script of a SLURM job. options: of sbatch, `name=value` or a name; they outrank those made here."""
        asked = dict(_option(text) for text in options)
        made = {
            "job-name": self.name, "nodes": str(self.num_nodes), "ntasks-per-node": str(self.devices),
            **({"gpus-per-node": str(self.devices)} if self.accelerator != "cpu" else {}),
            "output": "%x-%j.out", "open-mode": "append", "signal": f"USR1@{LEFT_TIME}", "requeue": None,
        }  # fmt: skip
        lines = [
            f"#SBATCH --{name}{f'={value}' if value is not None else ''}" for name, value in (made | asked).items()
        ]
        return "\n".join(["#!/bin/bash", *lines, "", f"srun {self.command}", *GO_ON]) + "\n"


def endpoint(rendezvous: str) -> str:
    """HOST:PORT, with torchrun's own port where none is named. Raises ZooError for what is neither."""
    found = re.fullmatch(r"(\[[\w:.%]+\]|[\w.-]+)(?::(\d{1,5}))?", rendezvous)
    if found is None or not 0 < int(found[2] or PORT) < 2**16:
        raise ZooError(
            f"--rendezvous {rendezvous} names no machine and port.", "Write it so: --rendezvous node0:29500",
        )  # fmt: skip
    return f"{found[1]}:{found[2] or PORT}"


GO_ON = (
    "status=$?",
    "# Out of time (75 by --max-time, 138 by SIGUSR1), with a checkpoint: the job waits again and goes on.",
    'case $status in 75|138) scontrol requeue "$SLURM_JOB_ID" ;; esac',
    "exit $status",
)
"""The end of a job's script."""


ALONE = {
    "contiguous", "exclusive", "get-user-env", "hold", "no-kill", "no-requeue", "overcommit", "oversubscribe",
    "propagate", "quiet", "reboot", "requeue", "spread-job", "use-min-nodes", "verbose", "wait",
}  # fmt: skip
"""Options of sbatch that may stand without a value."""


def _option(text: str) -> tuple[str, str | None]:
    """Name and value of an option of sbatch. Raises ZooError."""
    name, equals, value = text.removeprefix("--").partition("=")
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise ZooError(
            f"--sbatch {text!r} is no option of sbatch.",
            "Write its long name: --sbatch partition=gpu --sbatch exclusive",
        )
    if not equals and name not in ALONE:
        raise ZooError(f"--sbatch {name} needs a value.", f"Write it so: --sbatch {name}=VALUE")
    if equals and not value or re.search(r"[\n\"]", value):
        raise ZooError(f"--sbatch {text!r} has a value that a script cannot hold.", "Leave out quotes and line breaks.")
    if name in ("nodes", "ntasks-per-node", "ntasks"):
        raise ZooError(
            f"--sbatch {text} would contradict the run.",
            "--num-nodes and --devices of the run say how many machines and processes there are.",
        )
    return name, (f'"{value}"' if re.search(r"\s", value) else value) if equals else None


def read_launch(arguments: Sequence[str]) -> Launch:
    """What a command of zoo asks for; it is checked as --dry-run does. Raises ZooError for what cannot be launched."""
    if not arguments or arguments[0] not in COMMANDS:
        raise ZooError(
            f"`zoo {' '.join(arguments[:1]) or '…'}` does not run in several processes; `zoo train` and `zoo resume` "
            "do.",
            "Type the command of the run behind: zoo launch train --devices 4. "
            "`zoo compare` and `zoo reproduce` have --workers.",
        )
    config = _of_training(arguments) if arguments[0] == "train" else _of_run(arguments)
    name = str(config.get("name") or f"zoo-{config['algo']}")
    return Launch(tuple(arguments), int(config["devices"]), int(config["num_nodes"]), name, config["accelerator"])


def _of_run(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a run that goes on, with the numbers of processes and machines that were typed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--devices", "--num-nodes"):
        parser.add_argument(flag, type=int, default=argparse.SUPPRESS)
    try:
        typed, rest = parser.parse_known_args(list(arguments[1:]))
    except argparse.ArgumentError as error:
        raise ZooError(f"zoo resume: {error}.", "Write a number, such as --devices 4.") from None
    run = find_run(next((argument for argument in rest if not argument.startswith("-")), "last"))
    if (why := ended(run)) is not None:
        raise why
    return {**run.config, **vars(typed)}


def _of_training(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a run, from its own --dry-run, which looks for no device: a job may wait on a machine without."""
    told = subprocess.run(
        [sys.executable, "-m", "zoo", *arguments, "--dry-run", "--elsewhere", "--json"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if told.returncode:
        message, _, hint = told.stderr.strip().rpartition("\n")
        raise ZooError(message or hint, hint if message else "")
    return {name: option["value"] for name, option in json.loads(told.stdout)["options"].items()}


def submit(script: str) -> str:
    """Hand a job to SLURM; what sbatch answers. Raises ZooError."""
    try:
        answered = subprocess.run(["sbatch"], input=script, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ZooError(
            "sbatch is not on this machine.", "Add --dry-run to print the script, and submit it where SLURM is."
        ) from None
    if answered.returncode:
        raise ZooError(f"sbatch refuses the job: {answered.stderr.strip()}", "Its options are given with --sbatch.")
    return answered.stdout.strip()
