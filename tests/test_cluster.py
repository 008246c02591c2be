"""Each process knows which one it is, whatever has started it; processes that cannot be of one run are refused."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import tiny_runs
import torch
from test_processes import OPTIONS, command_of, only_run
from tiny_runs import FLOAT32, assert_same_runs, trainer

from zoo.errors import TrainingFailed, TrainingStopped, ZooError
from zoo.libraries import peers, sharding
from zoo.libraries.cluster import find_place
from zoo.libraries.connected import Connected
from zoo.libraries.peers import Peers, how_it_ended, in_background

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
    monkeypatch.setattr("zoo.libraries.peers.FIRST_WORD", 0.5)
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
    assert f"Waiting for process 1 of 2 for 0 s, at 127.0.0.1:{meet['MASTER_PORT']}. This is process 0" in line
    assert "it gives up after 30 minutes, and ctrl-C ends it." in line
    os.kill(child, signal.SIGTERM)
    assert tiny_runs.status_of(child, 60) == 128 + signal.SIGTERM, said()
    assert "before the first step" in said() and "Traceback" not in said()
    assert not list((tmp_path / "two").glob("*"))


def test_a_started_process_that_ends_before_it_has_come_is_told_at_once(monkeypatch):
    monkeypatch.setattr(peers, "LOOK_EVERY", 0.05)
    place = SimpleNamespace(rank=0, local_rank=0, processes=2, environment=port_of())
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.kill()
    with pytest.raises(
        TrainingStopped, match=r"Process 1 of 2 has ended \(by signal 9, SIGKILL\) before the processes met"
    ):
        Peers().connect(place, torch.device("cpu"), print, [child])


def test_what_fails_in_the_background_fails_here():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        in_background(fail, print)


def test_who_has_not_come_is_named_and_the_wait_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "FIRST_WORD", 0.5)
    monkeypatch.setattr(peers, "PATIENCE", timedelta(seconds=2))
    said, meet = [], port_of()
    first, *_, last = (SimpleNamespace(rank=rank, local_rank=rank, processes=3, environment=meet) for rank in range(3))
    # The first one holds the store; it is there before the last one comes.
    stores = [peers._Rendezvous(place).come() for place in (first, last)]
    monkeypatch.setenv("MASTER_ADDR", "another")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ZooError, match=r"3 processes of this run did not connect at .*: process 1 did not come: "):
        Peers().connect(first, torch.device("cpu"), said.append)
    assert said[0].startswith("Waiting for process 1 of 3 for ") and stores
    # A later run of this process does not read where these would have met.
    assert os.environ["MASTER_ADDR"] == "another" and "MASTER_PORT" not in os.environ


@pytest.fixture
def sharing(place, monkeypatch):
    """Two processes that are to share out a model; those that this one would start are written down when they end."""
    place({}, 2, 1)
    started, ended = find_place(2, 1), list[str]()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(peers, "_STARTED", [])
    connected = Connected(started, 2, 1, torch.device("cpu"), print, 1, True)
    child = SimpleNamespace(kill=lambda: ended.append("killed"), poll=lambda: None)
    monkeypatch.setattr(connected.launcher, "_call_children_scripts", lambda: connected.launcher.procs.append(child))
    return connected, ended


def test_a_run_that_did_not_connect_ends_the_processes_it_has_started(sharing, monkeypatch):
    connected, ended = sharing
    monkeypatch.setattr(peers, "PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr(sharding, "make_mesh", lambda *given: pytest.fail("they are not connected"))
    with pytest.raises(ZooError, match="did not connect"), contextlib.closing(connected):
        connected.connect()
    assert ended == ["killed"] and "MASTER_PORT" not in os.environ


def test_groups_of_processes_are_made_where_no_signal_has_to_wait_for_them(sharing, monkeypatch):
    """Not in the main thread, which alone heeds ctrl-C, and does not while it is in C++."""
    connected, _ = sharing
    threads = []
    for name, stand_in in (("connect", lambda *given: None), ("meet", lambda lost: None)):
        monkeypatch.setattr(connected.peers, name, stand_in)
    monkeypatch.setattr(sharding, "make_mesh", lambda *given: threads.append(threading.current_thread()))
    with contextlib.closing(connected):
        connected.connect()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_who_can_tell_how_a_process_ended_is_named(place):
    place({}, 2, 1)
    assert how_it_ended(find_place(2, 1), [], 1) == " (what started it tells how)"
    place(torchrun(0, 2), 2, 1)
    assert how_it_ended(find_place(2, 1), [], 1) == " (torchrun tells how)"


def port_of(external=False):
    """A cluster environment whose processes meet on this machine."""
    return SimpleNamespace(
        creates_processes_externally=external, main_address="127.0.0.1", main_port=int(free_port()),
        global_rank=lambda: 0, world_size=lambda: 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([], ""), ([3], "process 3"), ([1, 2, 5], "processes 1, 2 and 5"),
     (range(1, 400), "399 processes, among them 1, 2, 3, 4, 5, 6, 7, 8,")],
)  # fmt: skip
def test_ranks_are_listed(ranks, text):
    assert peers.listed(ranks) == text


def test_runs_of_torchrun_that_follow_each_other_have_keys_of_their_own():
    """Its store outlives a run, whose addresses the next one would read."""
    place = SimpleNamespace(rank=0, local_rank=0, processes=1, environment=port_of(external=True))
    stores = [peers._Rendezvous(place).come() for _ in range(3)]
    stores[0].set("address", "mine")
    assert stores[0].check(["address"]) and not any(store.check(["address"]) for store in stores[1:])


# -- the end of the first process is the end of all ------------------------------------------------------------------


@pytest.fixture
def both(monkeypatch):
    """Two processes of a run, which have parted."""
    monkeypatch.setattr(peers, "process_is_alive", lambda pid: pid != 0)
    store, made = torch.distributed.HashStore(), [Peers(), Peers()]
    for rank, one in enumerate(made):
        one.rank, one.store = rank, store
        one.places = {rank: (socket.gethostname(), 1) for rank in (0, 1)}
    return made


def follow(second, seen):
    def wait():
        try:
            second.first_alone(lambda: seen.append("work"))
            seen.append("through")
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_the_others_wait_until_the_first_one_is_through(both):
    first, second = both
    seen = []
    thread = follow(second, seen)

    def work():
        thread.join(0.5)
        assert thread.is_alive() and not seen
        seen.append("first")

    first.first_alone(work)
    thread.join(30)
    assert seen == ["first", "through"]


@pytest.mark.parametrize("raised", [TrainingFailed("Nothing was learnt.", "Look at it."), KeyError("a bug")])
def test_what_the_first_one_raises_all_raise(both, raised):
    first, second = both
    seen = []
    thread = follow(second, seen)

    def fail():
        raise raised

    with pytest.raises(type(raised)):
        first.first_alone(fail)
    thread.join(30)
    (error,) = seen
    if isinstance(raised, ZooError):
        assert type(error) is TrainingFailed and str(error) == str(raised) and error.exit_status == 1
    else:
        assert isinstance(error, SystemExit) and error.code == 1
    ended = []
    first.close([SimpleNamespace(kill=lambda: ended.append(True))])
    assert ended, "those that it started end with it"


def test_the_death_of_the_first_one_ends_the_wait(both):
    _, second = both
    second.places[0] = (socket.gethostname(), 0)
    with pytest.raises(torch.distributed.DistNetworkError):
        second.first_alone(lambda: None)


def test_the_first_one_ends_without_the_others(both, monkeypatch):
    first, _ = both
    first.places[1] = (socket.gethostname(), 0)
    first.first_alone(lambda: None)


SCRIPT = """
import json, os, sys
import zoo

options = json.loads(sys.argv[1])
first = zoo.train("sft", **options)
second = zoo.train("sft", **{**options, "model": str(first.path)})
seen = [str(first.path), first.is_complete, str(second.path), second.is_complete, second.summary["status"]]
with open(f"seen-{os.environ['RANK']}", "w") as stream:
    json.dump(seen, stream)
"""


def run_script(tmp_path, tiny_folder, strategy, *program):
    (tmp_path / "script.py").write_text(SCRIPT)
    rows = tiny_runs.data_for("sft", tmp_path, 12)
    options = {
        **FLOAT32, "model": str(tiny_folder), "data": rows, "devices": 2, "accelerator": "cpu", "max_steps": 2,
        "batch_size": 4, "score": "none", "out": str(tmp_path / "runs"), "quiet": True, "strategy": strategy,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *program, "script.py", json.dumps(options)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ZOO_CACHE": str(tmp_path / "cache-two")},
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_process_of_a_script_gets_each_run_when_it_is_written(tmp_path, tiny_folder, strategy):
    done = run_script(
        tmp_path, tiny_folder, strategy, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in (0, 1))
    runs = [str(tmp_path / "runs" / name) for name in ("sft-tiny-1", "sft-sft-tiny-1-1")]
    assert first == second == [runs[0], True, runs[1], True, "finished"]


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_script_that_starts_its_processes_itself_makes_one_run(tmp_path, tiny_folder, strategy):
    done = run_script(tmp_path, tiny_folder, strategy)
    assert done.returncode == 1 and "torchrun --nproc-per-node 2 SCRIPT.py" in done.stderr, done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sft-tiny-1"]
