"""`zoo launch`: start a run in several processes, or print the lines that do."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from zoo.errors import ZooError, nearest
from zoo.terminal import Console

EXAMPLES = (
    "zoo launch --dry-run train --algo dpo --devices 4",
    "zoo launch train --algo dpo --devices 2",
    "zoo launch --rendezvous node0:29500 train --algo dpo --devices 4 --num-nodes 2",
    "zoo launch --with slurm --sbatch partition=gpu --sbatch time=4:00:00 train --algo dpo --devices 8 --num-nodes 2",
)


LAUNCHERS = ("torchrun", "slurm")


def launch(
    command: Annotated[list[str], typer.Argument(metavar="train|resume …", help="The command of the run.")],
    launcher: Annotated[
        str, typer.Option("--with", help="torchrun starts the processes of this machine; slurm submits a job.")
    ] = "torchrun",
    rendezvous: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="torchrun on several machines: where they meet.")
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of sbatch, such as partition=gpu (repeat it for several)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the lines, and start nothing.")] = False,
) -> None:
    """Start a run in several processes with torchrun or SLURM.

    --devices and --num-nodes of the run say how many. Its options are checked before anything starts.
    """
    from zoo.workers.launchers import read_launch, submit

    if launcher not in LAUNCHERS:
        raise ZooError(
            f"--with {launcher} is no launcher.{nearest(launcher, LAUNCHERS)}",
            "Choose torchrun or slurm. With Ray, --workers ray makes many runs at the same time (docs/clusters.md).",
        )
    unused = "--sbatch" if sbatch and launcher != "slurm" else ""
    unused = "--rendezvous" if rendezvous is not None and launcher == "slurm" else unused
    if unused:
        raise ZooError(f"--with {launcher} does not read {unused}.", f"Leave {unused} out, or choose another --with.")
    asked = read_launch(command)
    console = Console()
    if launcher == "slurm":
        script = asked.job(sbatch or [])
        console.say(script.rstrip() if dry_run else submit(script))
        return
    arguments = asked.torchrun(rendezvous)
    if dry_run:
        if asked.num_nodes > 1:
            console.say(f"# on each of the {asked.num_nodes} machines")
        console.say(shlex.join(["torchrun", *arguments]))
        return
    from zoo.models.devices import choose_accelerator

    choose_accelerator(asked.accelerator)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *arguments])
