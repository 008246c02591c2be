"""Commands at the same time: after those they need, again after a kill, equal to one after another; launchers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import cli, preferences, write_rows

from zoo.errors import ZooError
from zoo.workers.launchers import Launch, endpoint, read_launch
from zoo.workers.local import LocalWorkers
from zoo.workers.make import make_workers, without
from zoo.workers.tasks import MOST_STARTS, Task, run_tasks


def tasks(folder, *listed):
    """(name, arguments, needs) as tasks."""
    return [Task(name, arguments, folder / f"{name}.log", needs) for name, arguments, needs in listed]


def test_tasks_run_after_those_that_they_need(tmp_path):
    said = []
    version = ("--version",)
    listed = tasks(tmp_path, ("a", version, ()), ("c", version, ("b",)), ("b", version, ("a",)))
    assert run_tasks(listed, LocalWorkers(3), said.append) == set()
    assert [line.split(":")[0] for line in said] == ["a", "a", "b", "b", "c", "c"]
    assert (tmp_path / "c.log").read_text().startswith("zoo ")


def test_a_failed_task_says_why_and_what_needs_it_is_not_started(tmp_path):
    said = []
    listed = tasks(tmp_path, ("a", ("runs", "nowhere"), ()), ("b", ("--version",), ("a",)), ("c", ("--version",), ()))
    assert run_tasks(listed, LocalWorkers(1), said.append) == {"a", "b"}
    assert any(line.startswith("a failed (status 2): There are no runs yet") for line in said)
    assert "b was not started, because a failed" in said
    assert not (tmp_path / "b.log").exists()


class Killing(LocalWorkers):
    """Kills the first processes that it starts."""

    def __init__(self, kills):
        super().__init__(1)
        self.kills = kills

    def start(self, task):
        process = super().start(task)
        if self.kills:
            self.kills -= 1
            process.process.kill()
        return process


@pytest.mark.parametrize(("kills", "failed"), [(1, set()), (MOST_STARTS, {"a"})])
def test_a_killed_task_starts_again_but_not_for_ever(tmp_path, kills, failed):
    said = []
    assert run_tasks(tasks(tmp_path, ("a", ("--version",), ())), Killing(kills), said.append) == failed
    assert "a: killed by SIGKILL; it goes on from its last checkpoint." in said
    assert sum("started" in line for line in said) == min(kills + 1, MOST_STARTS)


def test_a_stop_ends_every_task_and_tells_so(tmp_path):
    said = []

    class Stopping(LocalWorkers):
        def start(self, task):
            process = super().start(task)
            os.kill(os.getpid(), signal.SIGTERM)
            return process

    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks(tmp_path, ("a", ("doctor",), ()), ("b", ("doctor",), ())), Stopping(1), said.append)
    assert said[-1] == "Stopping a, with a checkpoint." and not (tmp_path / "b.log").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", "leaves no process"), ("-2", "leaves no process"), ("slurm", "neither a number"),
     ("ray(cpu=2)", "no option"), ("", "cannot be read"), ("2.5", "neither a number")],
)  # fmt: skip
def test_workers_that_cannot_be_are_refused(text, said):
    with pytest.raises(ZooError, match=said) as refused:
        make_workers(text)
    assert refused.value.hint


def test_flags_are_taken_out_of_a_command_with_their_values():
    typed = ["compare", "--workers", "2", "--algos", "dpo", "--only=x", "--workers=3", "--seeds", "2"]
    assert without(typed, "--workers", "--only") == ["compare", "--algos", "dpo", "--seeds", "2"]


# -- comparisons and recipes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, tiny_folder):
    """The arguments of a small comparison, and its results made one after another."""
    folder = tmp_path_factory.mktemp("workers")
    data = write_rows(folder / "pairs.jsonl", preferences(16))
    held_out = write_rows(folder / "held.jsonl", preferences(4, seed=9))
    arguments = [
        "compare", "--algos", "dpo", "--seeds", "2", "--max-steps", "2", "--batch-size", "4", "--answer-tokens", "4",
        "--model", str(tiny_folder), "--data", data, "--eval-data", held_out, "--precision", "32-true",
    ]  # fmt: skip
    status, out, err = cli(*arguments, "--out", str(folder / "one"))
    assert status == 0, out + err
    return arguments, folder


def untimed(value):
    """Results without what depends on the clock."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if "second" not in name}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def same_results(first, second):
    return untimed(json.loads((first / "compare.json").read_text())) == untimed(
        json.loads((second / "compare.json").read_text())
    )


@pytest.mark.long
def test_a_comparison_on_two_processes_equals_one_after_another(comparison):
    arguments, folder = comparison
    status, out, err = cli(*arguments, "--out", str(folder / "two"), "--workers", "2")
    assert status == 0, out + err
    assert "2 runs on 2 processes of this machine" in out and "dpo-seed1: finished after" in out
    assert same_results(folder / "one", folder / "two")
    for seed in (0, 1):
        first, second = (folder / place / f"dpo-seed{seed}/model/model.safetensors" for place in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    out = cli(*arguments, "--out", str(folder / "two"), "--workers", "2")[1]
    assert "0 runs on 2 processes" in out


def test_one_run_of_a_comparison_is_made_alone(comparison):
    arguments, folder = comparison
    status, out, err = cli(*arguments, "--out", str(folder / "parts"), "--only", "dpo-seed1", "--json")
    assert status == 0, out + err
    assert json.loads(out)["run"] == "dpo-seed1"
    assert (folder / "parts/dpo-seed1/measures.json").exists() and not (folder / "parts/dpo-seed0").exists()
    assert not (folder / "parts/compare.json").exists()
    status, _, err = cli(*arguments, "--out", str(folder / "parts"), "--only", "dpo-seed7")
    assert status == 2 and "Did you mean 'dpo-seed" in err and "It has: dpo-seed0, dpo-seed1." in err
    status, _, err = cli(*arguments, "--only", "dpo-seed1", "--workers", "2")
    assert status == 2 and "--only makes one run" in err


def ray(*arguments):
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def machines():
    """The processes that stand for Ray's machines."""
    found = subprocess.run(["pgrep", "-f", "raylet/raylet"], capture_output=True, text=True, check=False)
    return set(found.stdout.split())


@pytest.mark.slow
def test_a_comparison_on_a_ray_cluster_survives_a_lost_machine(comparison):
    """Two machines of Ray on this one; the second is killed while a run of the comparison is on it."""
    pytest.importorskip("ray")
    arguments, folder = comparison
    arguments = [
        *arguments,
        "--save-every",
        "1",
        "--out",
        str(folder / "ray"),
        "--workers",
        "ray(address=127.0.0.1:6391)",
    ]
    try:
        ray("start", "--head", "--num-cpus", "1", "--port", "6391", "--include-dashboard=false")
        first = machines()
        ray("start", "--address", "127.0.0.1:6391", "--num-cpus", "1")
        (second,) = machines() - first
        command = [sys.executable, "-m", "zoo", *arguments]
        compare = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while len(list(folder.glob("ray/dpo-seed*/run.yaml"))) < 2 and compare.poll() is None:
            time.sleep(0.05)
        os.kill(int(second), signal.SIGKILL)
        said = compare.communicate(timeout=300)[0]
    finally:
        ray("stop", "--force")
    assert compare.returncode == 0, said
    assert "2 runs on a Ray cluster of 2 machines" in said and "killed by SIGKILL" in said
    assert same_results(folder / "one", folder / "ray")


# -- launchers -----------------------------------------------------------------------------------------------------


TRAIN = ("train", "--algo", "dpo", "--data", "my pairs.jsonl")


def test_a_launch_is_what_the_options_of_the_run_say(tmp_path, tiny_folder):
    data = write_rows(tmp_path / "pairs.jsonl", preferences(16))
    file = tmp_path / "run.yaml"
    file.write_text(f"algo: dpo\nmodel: {tiny_folder}\ndata: {data}\ndevices: 4\nname: big\n")
    arguments = ("train", "--config", str(file), "--num-nodes=2", "--accelerator", "cpu")
    assert read_launch(arguments) == Launch(arguments, 4, 2, "big", "cpu")


def test_a_run_goes_on_with_the_processes_that_were_typed(tmp_path):
    (tmp_path / "run.yaml").write_text("algo: dpo\nname: null\ndevices: 2\nnum_nodes: 1\naccelerator: cpu\n")
    arguments = ("resume", "--devices", "4", str(tmp_path))
    assert read_launch(arguments) == Launch(arguments, 4, 1, "zoo-dpo", "cpu")
    with pytest.raises(ZooError, match="invalid int value"):
        read_launch(("resume", str(tmp_path), "--devices", "all"))


@pytest.mark.parametrize(
    ("summary", "said"),
    [({"status": "finished"}, "is finished."), ({"status": "failed", "reason": "Nothing was learnt."}, "Nothing was")],
)
def test_a_run_that_has_ended_is_not_launched_again(tmp_path, summary, said):
    (tmp_path / "run.yaml").write_text("algo: dpo\nname: null\ndevices: 2\nnum_nodes: 1\naccelerator: cpu\n")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    typed = [cli(*words, str(tmp_path)) for words in (("launch", "--dry-run", "resume"), ("resume",))]
    assert all(status == (2 if "finished" in said else 1) and said in err for status, _, err in typed)
    assert typed[0][2] == typed[1][2] and "torchrun" not in typed[0][1]


def test_torchrun_starts_the_processes_that_the_run_asks_for():
    assert Launch(TRAIN, 2, 1, "zoo-dpo").torchrun(None) == [
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "zoo",
        *TRAIN,
    ]
    many = Launch(TRAIN, 4, 2, "big")
    assert " ".join(many.torchrun("node0:29500")).startswith(
        "--nnodes 2 --rdzv-backend c10d --rdzv-id big --rdzv-endpoint node0:29500 --nproc-per-node 4 -m zoo train"
    )
    with pytest.raises(ZooError, match="where they meet") as refused:
        many.torchrun(None)
    assert "--rendezvous HOST:29500" in refused.value.hint
    with pytest.raises(ZooError, match="for several machines"):
        Launch(TRAIN, 4, 1, "big").torchrun("node0:29500")


@pytest.mark.parametrize("typed", ["node0", "node0:29400", "10.0.0.1:80", "[fe80::1]", "[::1]:29500"])
def test_the_processes_meet_where_torchrun_says(typed):
    """Its own reading of the text; with a port that stands in the line."""
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import DEFAULT_PORT
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

    made = endpoint(typed)
    assert parse_rendezvous_endpoint(made, 0) == parse_rendezvous_endpoint(typed, DEFAULT_PORT)


@pytest.mark.parametrize("typed", ["", "node0:", ":29500", "node0:port", "node0:0", "node0:99999", "http://node0:80"])
def test_a_meeting_place_that_cannot_be_is_refused(typed):
    with pytest.raises(ZooError, match="names no machine and port"):
        endpoint(typed)


@pytest.mark.parametrize(
    "words", [("--sbatch", "partition=gpu"), ("--with", "slurm", "--rendezvous", "node0:29500")], ids=str
)
def test_what_a_launcher_does_not_read_is_refused(words):
    status, out, err = cli("launch", *words, "--dry-run", "train")
    assert status == 2 and f"does not read {words[-2]}" in err and not out


def test_a_job_of_slurm_asks_for_what_the_run_does():
    script = Launch(TRAIN, 4, 2, "big").job(["time=4:00:00", "exclusive"])
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "signal=USR1@300", "time=4:00:00", "exclusive"):
        assert f"#SBATCH --{line}\n" in script
    assert "srun zoo train --algo dpo --data 'my pairs.jsonl'\n" in script
    assert '#SBATCH --comment="two words"\n' in Launch(TRAIN, 4, 2, "big").job(["comment=two words"])
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "gpus-per-node" not in Launch(TRAIN, 4, 2, "big", "cpu").job([])
    assert "#SBATCH --gpus-per-node=a100:4\n" in Launch(TRAIN, 4, 2, "big").job(["gpus-per-node=a100:4"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--with", "slrum", "--dry-run", "train"), "--with slrum is no launcher. Did you mean 'slurm'?"),
        (("--dry-run", "compare"), "`zoo compare` does not run in several processes"),
        (("--dry-run", "train", "--algo", "dpoo"), "Did you mean 'dpo'?"),
        (("--dry-run", "train", "--no-such-flag"), "No such option"),
        (("--dry-run", "resume", "nothing-here"), "No run is called 'nothing-here'"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_starts(arguments, said):
    status, out, err = cli("launch", *arguments)
    assert status == 2 and said in err and not out


@pytest.fixture
def of_a_gpu(tmp_path, tiny_folder):
    """A run for a device that is not here."""
    data = write_rows(tmp_path / "pairs.jsonl", preferences(16))
    return ["train", "--algo", "dpo", "--model", str(tiny_folder), "--data", data, "--devices", "4", "--accelerator"]


@pytest.mark.parametrize("accelerator", ["gpu", "mps"])
def test_lines_for_gpus_are_written_where_there_is_none(of_a_gpu, accelerator, monkeypatch):
    """On a login node, in a job of its own too."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    status, out, err = cli("launch", "--with", "slurm", "--dry-run", *of_a_gpu, accelerator)
    assert status == 0 and "#SBATCH --gpus-per-node=4\n" in out, err
    status, out, err = cli("launch", "--dry-run", *of_a_gpu, accelerator)
    assert status == 0 and out.startswith("torchrun --standalone --nproc-per-node 4"), err


def test_what_else_is_wrong_with_a_run_for_gpus_is_told(of_a_gpu):
    status, out, err = cli("launch", "--with", "slurm", "--dry-run", *of_a_gpu, "gpu", "--loggers", "wandbb")
    assert status == 2 and "Did you mean 'wandb'?" in err and "sees no GPU" not in err and not out


def test_a_run_that_starts_here_needs_its_device_here(of_a_gpu):
    status, _, err = cli("launch", *of_a_gpu, "mps")
    assert status == 2 and "sees no MPS device" in err


CONTRADICTING = ["nodes=3", "ntasks=8"]
UNREADABLE = ["partition gpu", "-p", "time", "partition=", 'comment=say "no"', "comment=a\nb"]


@pytest.mark.parametrize("option", [*CONTRADICTING, *UNREADABLE])
def test_options_that_would_contradict_the_run_are_refused(option):
    with pytest.raises(ZooError, match="--sbatch"):
        Launch(TRAIN, 4, 2, "big").job([option])


@pytest.mark.long
def test_the_line_of_torchrun_trains(tmp_path, tiny_folder):
    data = write_rows(tmp_path / "pairs.jsonl", preferences(16))
    arguments = ["train", "--algo", "dpo", "--model", str(tiny_folder), "--data", data, "--max-steps", "2"]
    arguments += ["--devices", "2", "--out", str(tmp_path), "--name", "both", "--score", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "launch", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "both/model/model.safetensors").is_file()
