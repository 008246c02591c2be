"""Each process knows which one it is, whatever has started it; processes that cannot be of one run are refused."""

import itertools
import os
import signal
import socket
import time
from types import SimpleNamespace

import pytest
import tiny_runs
import torch
from test_processes import OPTIONS, command_of, only_run
from tiny_runs import assert_same_runs, trainer

from zoo.errors import ZooError
from zoo.libraries.cluster import find_place
from zoo.libraries.meeting import in_background

VARIABLES = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID",
    "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
    "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_NODELIST",
)  # fmt: skip


def slurm(rank, tasks=2, a_node=2):
    """What srun tells one of its processes."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": str(rank),
        "SLURM_NTASKS_PER_NODE": str(a_node), "SLURM_NNODES": str(tasks // a_node),
        "SLURM_LOCALID": str(rank % a_node), "SLURM_NODEID": str(rank // a_node), "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip


def torchrun(rank, size):
    return {**tiny_runs.torchrun(rank, size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def node(rank):
    return {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def place(monkeypatch):
    """`place(environment, devices, num_nodes)` in a process that is told nothing else."""

    def place(environment, *counts):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = find_place(*counts)
        return found.rank, found.local_rank, found.processes

    return place


@pytest.mark.parametrize(
    ("environment", "counts", "wanted"),
    [
        ({}, (1, 1), (0, 0, 1)),
        ({}, (2, 1), (0, 0, 2)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, (2, 1), (1, 1, 2)),
        (node(1), (1, 2), (1, 0, 2)),
        ({**node(1), "LOCAL_RANK": "2"}, (3, 2), (5, 2, 6)),
        (torchrun(1, 2), (2, 1), (1, 1, 2)),
        (slurm(0), (2, 1), (0, 0, 2)),
        (slurm(3, 4), (2, 2), (3, 1, 4)),
        # torchrun inside of a SLURM job: torchrun has started the process.
        ({**slurm(0, 1, 1), **torchrun(1, 2)}, (2, 1), (1, 1, 2)),
        # A shell in an allocation, and a batch script without srun.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, (1, 1), (0, 0, 1)),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, (1, 1), (0, 0, 1)),
    ],
)
def test_a_process_finds_its_place(place, environment, counts, wanted):
    assert place(environment, *counts) == wanted


@pytest.mark.parametrize(
    ("environment", "counts", "message"),
    [
        (slurm(0), (1, 1), "SLURM started 2 processes, but --devices 1 times --num-nodes 1 is 1"),
        (slurm(0, 1, 1), (2, 1), "SLURM started 1 process, but --devices 2 times --num-nodes 1 are 2"),
        (torchrun(0, 2), (1, 1), "torchrun started 2 processes"),
        ({"SLURM_NTASKS": "2"}, (2, 1), "SLURM does not say which process this is"),
        ({**slurm(0), "SLURM_PROCID": "x"}, (2, 1), "SLURM does not say which process this is"),
        ({}, (1, 2), "needs to know which of the 2 machines this is .*NODE_RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({"GROUP_RANK": "1", "MASTER_ADDR": "x"}, (1, 2), "are: MASTER_PORT not set"),
        (node(1), (1, 1), "NODE_RANK is 1 in this process, but with --devices 1 and --num-nodes 1 it must be 0"),
        ({"LOCAL_RANK": "1"}, (1, 1), "LOCAL_RANK is 1"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 1), "RANK is 1"),
        ({**node(0), "RANK": "1"}, (1, 2), "RANK is 1 in this process, .* must be 0"),
        ({"WORLD_SIZE": "2"}, (1, 1), "WORLD_SIZE is 2"),
        ({**node(0), "NODE_RANK": "first"}, (1, 2), "must be numbers"),
        ({"GROUP_RANK": "1"}, (2, 1), "GROUP_RANK is 1"),
        ({"RANK": "first"}, (1, 1), "RANK is first"),
    ],
)
def test_a_process_that_cannot_be_one_of_so_many_is_refused(place, environment, counts, message):
    with pytest.raises(ZooError, match=message) as refused:
        place(environment, *counts)
    assert refused.value.hint


# -- two processes that something else has started -----------------------------------------------------------------


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.parametrize("launcher", ["srun", "NODE_RANK"])
def test_processes_started_otherwise_give_what_one_gives(tmp_path, tiny_folder, monkeypatch, launcher):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))
    single = trainer(tmp_path, tiny_folder)("dpo", rows=11, **OPTIONS)
    nodes = {"devices": 1, "num_nodes": 2} if launcher == "NODE_RANK" else {}
    arguments = command_of("dpo", tmp_path, tiny_folder, 11, **nodes)
    told = [{"NODE_RANK": str(rank)} if nodes else slurm(rank) for rank in (0, 1)]
    first, second = tiny_runs.together(arguments, tmp_path, told, ZOO_CACHE=str(tmp_path / "cache-two"))
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr + second.stdout + second.stderr
    assert_same_runs(single, only_run(tmp_path))
    assert "Training dpo" in first.stdout and second.stdout == ""


def test_processes_that_make_other_runs_are_refused(tmp_path, tiny_folder):
    arguments = command_of("sft", tmp_path, tiny_folder, 11, devices=1, num_nodes=2)
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ZOO_CACHE": str(tmp_path / "cache-two")}
    typed = [([*arguments, "--seed", str(rank)], {"NODE_RANK": str(rank), **meet}) for rank in (0, 1)]
    for done in tiny_runs.forked(*typed, cwd=tmp_path):
        assert done.returncode == 2 and "do not agree on the configuration" in done.stderr, done.stdout + done.stderr
    assert not list((tmp_path / "two").glob("*"))


def test_waiting_for_the_others_is_said_and_ends_on_a_signal(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr("zoo.libraries.meeting.FIRST_WORD", 0.5)
    arguments = command_of("sft", tmp_path, tiny_folder, 11, devices=1, num_nodes=2)
    meet = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    files = tmp_path / "out", tmp_path / "err"
    child = tiny_runs.start_fork(arguments, meet, tmp_path, *files)

    def said():
        return "".join(file.read_text() for file in files)

    while "Waiting" not in said():
        assert os.waitpid(child, os.WNOHANG)[0] == 0, f"it ended without a word: {said()}"
        time.sleep(0.01)
    (line,) = [line for line in said().splitlines() if "Waiting" in line]
    assert "process 0 of 2" in line and meet["MASTER_PORT"] in line
    os.kill(child, signal.SIGTERM)
    assert tiny_runs.status_of(child, 60) == 128 + signal.SIGTERM, said()
    assert "before the first step" in said() and "Traceback" not in said()
    assert not list((tmp_path / "two").glob("*"))


def test_what_fails_in_the_background_fails_here():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        in_background(fail, print)


def test_runs_of_torchrun_that_follow_each_other_have_keys_of_their_own(monkeypatch):
    """Its store outlives a run, whose addresses the next one would read."""
    from zoo.libraries import connected

    seen = []
    shared = torch.distributed.HashStore()
    monkeypatch.setattr(connected, "_RUNS", itertools.count())
    monkeypatch.setattr(connected, "_init_dist_connection", lambda *given, **options: seen.append(options.get("store")))
    monkeypatch.setattr(connected.dist, "rendezvous", lambda *given: iter([(shared, 0, 2)]))
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.setenv("MASTER_PORT", "")
    place = SimpleNamespace(creates_processes_externally=True, main_address="127.0.0.1", main_port=1)
    for _ in range(3):
        connected.connect(place, "gloo", 0, 2)
    first, *others = seen
    assert first is None
    for store in others:
        store.set("address", "mine")
    assert shared.num_keys() == 2
