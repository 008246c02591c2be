"""The rank of this process, from Lightning's cluster environments, before the processes connect."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zoo.errors import ZooError
from zoo.libraries.launched import check_count, check_machine
from zoo.libraries.reliance import importing, relies_on

with importing("lightning"):
    from lightning.fabric.plugins.environments import (
        ClusterEnvironment,
        LightningEnvironment,
        LSFEnvironment,
        MPIEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

LAUNCHERS: dict[str, type[ClusterEnvironment]] = {
    "torchrun": TorchElasticEnvironment,
    "SLURM": SLURMEnvironment,
    "LSF": LSFEnvironment,
    "MPI": MPIEnvironment,
}
"""In the order of Lightning's own connector."""


@dataclass(frozen=True)
class Place:
    """One process of a run: its rank, its local rank, and the number of processes."""

    rank: int
    local_rank: int
    processes: int
    environment: ClusterEnvironment


def find_place(devices: int, num_nodes: int) -> Place:
    """This process among devices × num_nodes. Raises ZooError if its launcher contradicts these."""
    launcher = next((name for name, kind in LAUNCHERS.items() if kind.detect()), "")
    place = _launched(launcher) if launcher else _by_hand(devices, num_nodes)
    check_count(launcher, place.processes, devices, num_nodes)
    return place


def launcher_of(place: Place) -> str:
    """The launcher that has started a process; empty where Lightning or somebody by hand has."""
    return next((name for name, kind in LAUNCHERS.items() if isinstance(place.environment, kind)), "")


def _launched(launcher: str) -> Place:
    """The place according to the launcher."""
    try:
        # Lightning would answer SLURM's signal with a checkpoint of its own; zoo saves and ends (record/signals.py).
        found = SLURMEnvironment(auto_requeue=False) if launcher == "SLURM" else LAUNCHERS[launcher]()
        size = found.world_size()
        # In a SLURM job but without srun there is one process, which has no rank.
        rank, local = (found.global_rank(), found.local_rank()) if size > 1 else (0, 0)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ZooError(
            f"{launcher} does not say which process this is: {error}",
            "Start zoo with it (srun --nodes=2 --ntasks-per-node=1 zoo train …), or unset its variables.",
        ) from None
    return Place(rank, local, size, found)


def _by_hand(devices: int, num_nodes: int) -> Place:
    """Without a launcher, Lightning starts the processes of this machine; NODE_RANK says which machine it is."""
    given = os.environ
    check_machine(num_nodes, given)
    found = LightningEnvironment()
    try:
        node, local = found.node_rank(), found.local_rank()
    except ValueError as error:
        raise ZooError(f"NODE_RANK and LOCAL_RANK must be numbers: {error}.", "Correct them, or unset them.") from None
    place = Place(node * devices + local, local, devices * num_nodes, found)
    which = "NODE_RANK" if "NODE_RANK" in given else "GROUP_RANK"
    possible: dict[str, Sequence[int]] = {which: range(num_nodes), "LOCAL_RANK": range(devices)}
    possible |= {"RANK": [place.rank], "WORLD_SIZE": [place.processes]}
    for name, numbers in possible.items():
        if given.get(name, str(numbers[0])) not in map(str, numbers):
            raise ZooError(
                f"{name} is {given[name]} in this process, but with --devices {devices} and --num-nodes {num_nodes} it "
                f"must be {' or '.join(map(str, numbers))}.",
                f"Unset {name}, or give --devices (processes on each machine) and --num-nodes (machines).",
            )
    return place


# -- checks --------------------------------------------------------------------------------------------------------

STARTED = {
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "1", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    },
    "SLURM": {
        "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_NODELIST": "localhost",
    },
    "": {"NODE_RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
}  # fmt: skip
"""The environment of the second process on the second of two machines, by launcher."""


@contextlib.contextmanager
def started_by(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment of a process with these variables."""
    before = dict(os.environ)
    known = {name for started in STARTED.values() for name in started} | {"SLURM_JOB_NAME"}
    for name in known | {name for name in before if name.startswith("SLURM_")}:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@relies_on("lightning", "The cluster environments detect torchrun and SLURM, and give rank, local rank and world size.")
def places_are_known_from_the_environment() -> None:
    for launcher, variables in STARTED.items():
        with started_by(variables):
            place = find_place(devices=2, num_nodes=2)
        found = place.rank, place.local_rank, place.processes
        assert found == (3, 1, 4), f"the last of 2 × 2 processes of {launcher or 'no launcher'} is {found}"
