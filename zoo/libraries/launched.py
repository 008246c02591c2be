"""What the environment says about how the processes of a run were started, without loading a library."""

from __future__ import annotations

import os
from collections.abc import Mapping

from zoo.errors import ZooError
from zoo.numbers import amount

NEEDED = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables that a process on one of several machines needs if it was started by hand."""
SIZES = {"torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"), "SLURM": ("SLURM_PROCID", "SLURM_NTASKS")}
"""Of each launcher the variable that shows its work, and the one with the number of processes."""
INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which commands are typed, so that there is one process of each."""


def check_launch(devices: int, num_nodes: int) -> None:
    """Raises ZooError where the environment contradicts --devices and --num-nodes, or is not enough for them."""
    given = os.environ
    for launcher, (mark, size) in SIZES.items():
        if mark in given and given.get(size, "").isdigit():
            if launcher != "SLURM" or given.get("SLURM_JOB_NAME") not in INTERACTIVE:
                check_count(launcher, int(given[size]), devices, num_nodes)
            return
    if not any(name in given for name in ("LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")):
        check_machine(num_nodes, given)


def check_count(launcher: str, processes: int, devices: int, num_nodes: int) -> None:
    """Raises ZooError where a launcher started more or fewer processes than the options ask for."""
    if processes == devices * num_nodes:
        return
    count = amount(processes, "process", "processes")
    raise ZooError(
        f"{launcher} started {count}, but --devices {devices} times --num-nodes {num_nodes} "
        f"{'is' if devices * num_nodes == 1 else 'are'} {devices * num_nodes}.",
        "--devices is the number of processes on each machine, --num-nodes the number of machines"
        + ("; srun --nodes and --ntasks-per-node must agree." if launcher == "SLURM" else "."),
    )


def check_machine(num_nodes: int, given: Mapping[str, str]) -> None:
    """Raises ZooError where a process started by hand does not know which machine it is on."""
    missing = [name for name in NEEDED if name not in given and not (name == "NODE_RANK" and "GROUP_RANK" in given)]
    if num_nodes > 1 and missing:
        raise ZooError(
            f"--num-nodes {num_nodes} needs to know which of the {num_nodes} machines this is and where the others "
            f"are: {', '.join(missing)} not set.",
            "Start zoo on every machine with torchrun or srun: `zoo launch --dry-run train …` checks the options and "
            "prints the lines. Or set NODE_RANK (0, 1, …), MASTER_ADDR and MASTER_PORT on each (docs/running.md).",
        )
