"""A run that is told to stop saves, ends with a status that a scheduler understands, and goes on where it stopped."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from tiny_runs import (
    cli,
    data_for,
    demonstrations,
    float32_flags,
    same_bytes,
    trainer,
    two_processes,
    write_rows,
)  # fmt: skip

import zoo
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.errors import TrainingStopped, ZooError, was_asked
from zoo.libraries import peers as others
from zoo.numbers import seconds_in
from zoo.runs import Run, find_runs
from zoo.training.record import checkpoints, signals, trackers
from zoo.training.record.signals import OUT_OF_TIME, Deadline, Signals


class After:
    """Calls a function at the end of a step."""

    def __init__(self, step, function):
        self.step, self.function = step, function

    @hookimpl
    def step_end(self, step):
        if step == self.step:
            self.function()


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def after(monkeypatch):
    """`after(step, function)`: the function is called at the end of that step, in every run of the test."""

    def after(step, function):
        modules, broken = registry.plugin_modules()
        monkeypatch.setattr(
            registry, "plugin_modules", lambda: ((*modules, ("mine@test", After(step, function))), broken)
        )

    return after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("3h50m", 13800), ("2d", 172800), ("1d2h3m4s", 93784), ("02:00:00", 7200),
     ("1-02:00:00", 93600), ("1-2", 93600), (" 45m ", 2700)],
)  # fmt: skip
def test_times_are_read(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "3:50", "3x", "m", "-5m", "5m3h", "1.5h"])
def test_what_may_mean_several_times_is_refused(train, text):
    with pytest.raises(ValueError, match="is no time"):
        seconds_in(text)
    says = "must be a time with its unit" if text else "is empty"
    with pytest.raises(ZooError, match=f"max_time.*{says}") as refused:
        train("sft", max_time=text)
    assert "--max-time" in refused.value.hint and ("3h50m" in refused.value.hint) == bool(text)


def test_no_time_at_all_is_refused(train):
    with pytest.raises(ZooError, match="max_time"):
        train("sft", max_time="0s")


def test_a_step_that_would_end_too_late_is_not_begun(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    deadline = Deadline(begun=90.0, seconds=60.0)
    told = []
    for seconds in (20.0, 5.0, 5.0, 2.0):
        now[0] += seconds
        told.append(deadline.is_near())
    assert told == [False, False, False, True], "132 + 20 s is after 150 s, 130 + 20 s is not"
    assert not Deadline(90.0, None).is_near()
    deadline.closing = 17.0
    assert not deadline.is_near_at_the_end(), "132 + 17 s is before 150 s"
    deadline.closing = 19.0
    assert deadline.is_near_at_the_end() and not Deadline(90.0, None).is_near_at_the_end()


def stopped(train, **options):
    with pytest.raises(TrainingStopped) as caught:
        train("sft", max_steps=4, save_every=0, name="mine", lr=1e-3, **options)
    return caught.value


def test_the_end_of_its_time_stops_a_run_that_then_goes_on(train, tmp_path, after, monkeypatch):
    whole = train("sft", max_steps=4, name="whole", lr=1e-3)
    after(2, lambda: monkeypatch.setattr(Deadline, "is_near", lambda self: True))
    error = stopped(train, max_time="3h50m")
    assert error.exit_status == OUT_OF_TIME == 75 and was_asked(error)
    assert error.message == "Stopped by --max-time after step 2. The checkpoint is complete."
    assert "zoo resume" in error.hint
    monkeypatch.setattr(Deadline, "is_near", lambda self: False)
    run = zoo.resume(tmp_path / "runs" / "mine", quiet=True)
    assert same_bytes(run, whole, "metrics.jsonl") and same_bytes(run, whole, "model/model.safetensors")


def test_scores_after_the_last_step_that_would_end_too_late_are_left_to_a_resume(train, tmp_path, monkeypatch):
    whole = train("sft", max_steps=4, name="whole", lr=1e-3)
    monkeypatch.setattr(Deadline, "is_near_at_the_end", lambda self: self.closing > 0)
    assert stopped(train, max_time="3h50m").message.startswith("Stopped by --max-time after step 4.")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = zoo.resume(tmp_path / "runs" / "mine", quiet=True)
    assert run.status == "finished" and same_bytes(run, whole, "model/model.safetensors")


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
def test_what_schedulers_and_closed_terminals_send_saves_and_ends(train, tmp_path, after, name):
    number = getattr(signal, name)
    after(3, lambda: os.kill(os.getpid(), number))
    error = stopped(train)
    assert error.exit_status == 128 + number and error.message.startswith(f"Stopped by {name} after step 3.")
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "step-3").is_dir()
    assert signal.getsignal(number) == signal.SIG_DFL, "the handler is given back"


def test_under_nohup_a_closed_terminal_is_nothing():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


# -- ctrl-C outside of a run ---------------------------------------------------------------------------------------


def test_ctrl_c_in_a_command_is_no_traceback(monkeypatch):
    def press():
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "algorithms", press)
    status, out, err = cli("algos")
    assert (status, err.strip()) == (130, "Stopped by ctrl-C.")


def test_ctrl_c_among_the_options_is_no_traceback(monkeypatch):
    def press(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.cli.main.add_commands", press)
    status, out, err = cli("train")
    assert (status, err.strip()) == (130, "Stopped by ctrl-C.")


PRESSED = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
"""
BROKEN = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise ImportError("a module in C says only that it failed")
"""


@pytest.mark.parametrize("code", [PRESSED, BROKEN])
def test_ctrl_c_in_the_first_second_is_no_traceback(tmp_path, code):
    (tmp_path / "typer.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "algos"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (130, "Stopped by ctrl-C.\n", "")


def test_other_failed_imports_keep_their_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise ImportError('broken')")
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "algos"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 1 and "ImportError: broken" in done.stderr


# -- what a run goes on without, and what it does not --------------------------------------------------------------


def test_a_logger_that_fails_is_told_once_and_the_run_goes_on(train, tmp_path, after, capsys):
    whole = train("sft", name="whole", lr=1e-3)
    logs = tmp_path / "runs" / "mine" / "logs"
    after(1, lambda: (shutil.rmtree(logs, ignore_errors=True), logs.write_text("no folder")))
    run = train("sft", name="mine", lr=1e-3, loggers="csv", quiet=False)
    assert capsys.readouterr().out.count("The logger csv fails (") == 1
    assert run.status == "finished" and same_bytes(run, whole, "metrics.jsonl")


def test_how_often_a_logger_failed_is_told_at_the_end(tmp_path, monkeypatch):
    class Down:
        def log_metrics(self, values, step):
            raise ConnectionError("the tracker is down")

        def finalize(self, status):
            raise ConnectionError("the tracker is down")

    said = []
    monkeypatch.setattr(trackers, "_logger", lambda name, run: Down())
    down = trackers.Trackers(["wandb"], Run(tmp_path), said.append)
    for step in (1, 2):
        down.write({"loss": 1.0}, step)
    down.close()
    assert said == [
        "The logger wandb fails (ConnectionError: the tracker is down); the run goes on without it.",
        "The logger wandb has failed 3 times.",
    ]


def test_a_logger_without_its_package_is_refused(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("wandb")

    monkeypatch.setattr("zoo.libraries.trainer.logger_class", missing)
    with pytest.raises(ZooError, match="needs a package"):
        trackers.Trackers(["wandb"], Run(tmp_path), print)


def test_a_run_folder_that_disappears_is_one_error(train, tmp_path, after):
    after(2, lambda: shutil.rmtree(tmp_path / "runs" / "mine"))
    with pytest.raises(TrainingStopped, match="The run folder .*mine is gone") as caught:
        train("sft", name="mine", max_steps=4)
    assert caught.value.exit_status == 1 and "Put it back" in caught.value.hint
    assert not (tmp_path / "runs" / "mine").exists(), "nothing of it is begun again"


# -- a process of several that dies --------------------------------------------------------------------------------

DYING = '''
import os
import signal

from zoo_plugins.sft import SFT


class Dying(SFT):
    """Its second process is killed in the second step, or fails in it."""

    def loss(self, batch, models, config, step):
        if step == 1 and os.environ["LOCAL_RANK"] == "1":
            if "FAIL" in os.environ:
                raise ValueError("a bug")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, models, config)
'''


def dying(tmp_path, tiny_folder, **environment):
    (tmp_path / "dying.py").write_text(DYING)
    flags = float32_flags(devices=2, accelerator="cpu", save_every=1, name="mine", max_steps=3)
    return two_processes(
        "train", "--algo", "./dying.py:Dying", "--model", tiny_folder, "--data", data_for("sft", tmp_path), *flags,
        cwd=tmp_path, **environment,
    )  # fmt: skip


def test_a_process_that_is_killed_ends_the_others_with_one_message(tmp_path, tiny_folder):
    first, second = dying(tmp_path, tiny_folder)
    assert (first.returncode, second.returncode) == (1, -signal.SIGKILL)
    said = "Process 1 of 2 has ended (torchrun tells how), so the others end too. The last complete checkpoint is "
    assert f"{said}step-1." in first.stderr
    assert "Continue with: zoo resume runs/mine" in first.stderr
    assert "Traceback" not in first.stderr and "bug of the plugin" not in first.stderr and second.stderr == ""


def test_a_process_that_fails_speaks_for_itself(tmp_path, tiny_folder):
    first, second = dying(tmp_path, tiny_folder, FAIL="1")
    assert (first.returncode, second.returncode) == (1, 1)
    assert "ValueError: a bug" in second.stderr and "Process 1 of 2 has ended" in first.stderr


def test_the_first_of_those_left_tells_of_it(monkeypatch):
    peers = others.Peers()
    peers.places = {0: ("here", 1), 1: ("here", 2), 2: ("there", 1)}
    monkeypatch.setattr(others.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(others, "process_is_alive", lambda pid: pid != 1)
    assert peers.gone() == [0], "one of another machine is not looked for"
    peers.rank = 1
    assert peers.speaks([0])
    peers.rank = 2
    assert not peers.speaks([0]) and peers.speaks([0, 1])


def test_one_that_waits_inside_of_a_library_is_ended_too(monkeypatch):
    monkeypatch.setattr(others, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(others, "LAST_WORD", 0.01)
    monkeypatch.setattr(others, "process_is_alive", lambda pid: False)
    told = threading.Event()
    peers = others.Peers()
    peers.meet(lambda gone: told.set() if gone == [0] else None)
    assert told.wait(30)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (torch.distributed.DistBackendError("remote process exited"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("socket"), False),
    ],
)
def test_a_lost_connection_is_told_from_a_bug(error, lost):
    assert others.is_lost_connection(error) == lost
    wrapped = KeyError("x")
    wrapped.__cause__ = error
    assert others.is_lost_connection(wrapped) == lost


# -- checkpoints that are kept -------------------------------------------------------------------------------------


def test_checkpoints_that_are_kept_for_good_outlive_the_run(train, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", demonstrations(7, seed=9))
    run = train("sft", epochs=2, save_every=1, keep_every=4, keep_top=1, eval_data=held_out, eval_every=1, lr=1e-3)
    values = {row["step"]: row["val/loss"] for row in run.log_history if "val/loss" in row and row["step"]}
    best = min(values, key=values.get)
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-4", f"step-{best}"}


def test_the_newest_are_kept_until_the_end(train, tmp_path, after):
    seen = []
    after(5, lambda: seen.extend(sorted(path.name for path in (tmp_path / "runs/mine/checkpoints").iterdir())))
    run = train("sft", name="mine", epochs=2, save_every=1, keep_last=3)
    assert seen == ["step-3", "step-4", "step-5"] and not run.checkpoints.exists()


def test_a_run_whose_disk_is_slow_ends_like_another(train, tmp_path, monkeypatch):
    """Written by the thread, as outside of the tests: the steps go on, and the end waits."""
    whole = train("sft", name="whole", lr=1e-3)
    monkeypatch.setattr(checkpoints, "IN_BACKGROUND", True)
    steps, written, original = [], [], checkpoints.save_file

    def slow(*given):
        end = time.monotonic() + 30
        while len(steps) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        original(*given)
        written.append(len(steps))

    class Count:
        @hookimpl
        def step_end(self, step):
            steps.append(step)

    modules, broken = registry.plugin_modules()
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((*modules, ("count@test", Count())), broken))
    monkeypatch.setattr(checkpoints, "save_file", slow)
    run = train("sft", name="mine", lr=1e-3, save_every=2, keep_checkpoints=True)
    assert written[0] >= 3, "a step was made while the first checkpoint was written"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-6"]
    assert same_bytes(run, whole, "metrics.jsonl") and same_bytes(run, whole, "model/model.safetensors")


# -- the same command again ----------------------------------------------------------------------------------------


@pytest.fixture
def again(tmp_path, tiny_folder, monkeypatch):
    """`again(*flags)`: the same command line; gives exit status, stdout and stderr."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    flags = float32_flags(max_steps=4, save_every=0, lr=1e-3, score="none")

    def again(*more):
        data = data_for("sft", tmp_path)
        return cli("train", "--algo", "sft", "--model", tiny_folder, "--data", data, *flags, *more)

    return again


def test_the_same_command_goes_on_until_the_run_is_finished(again, train, tmp_path, after, monkeypatch):
    whole = train("sft", max_steps=4, name="whole", lr=1e-3)
    with monkeypatch.context() as patch:
        after(2, lambda: patch.setattr(Deadline, "is_near", lambda self: True))
        status, out, err = again("--name", "mine", "--resume", "--max-time", "1h")
        assert status == OUT_OF_TIME and "Continue with: zoo resume runs/mine" in err
    status, out, err = again("--name", "mine", "--resume", "--max-time", "1h")
    assert status == 0 and "Resuming from step-2." in out
    run = Run(tmp_path / "runs" / "mine")
    assert same_bytes(run, whole, "metrics.jsonl")
    status, out, err = again("--name", "mine", "--resume", "--max-time", "1h")
    assert status == 0 and "is finished: there is nothing left to do" in out


def test_other_options_than_before_are_refused_with_both_values(again, after):
    after(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert again("--name", "mine", "--resume")[0] == 143
    status, out, err = again("--name", "mine", "--resume", "--seed", "3")
    assert status == 2 and "seed was 0, now 3" in err and "zoo resume mine" in err


def test_what_does_not_change_the_result_may_be_typed_anew(again, after, tmp_path, monkeypatch):
    """The time of a job, how often is logged: the run goes on with what was typed now."""
    with monkeypatch.context() as patch:
        after(2, lambda: patch.setattr(Deadline, "is_near", lambda self: True))
        assert again("--name", "mine", "--resume", "--max-time", "1h")[0] == OUT_OF_TIME
    status, out, err = again("--name", "mine", "--resume", "--log-every", "2")
    assert status == 0 and "Resuming from step-2." in out and "log_every was 1, is 2" in out, out + err
    logged = [row["step"] for row in Run(tmp_path / "runs" / "mine").log_history if "loss" in row]
    assert logged == [1, 2, 4]


def test_a_resume_takes_another_time(again, after, monkeypatch):
    with monkeypatch.context() as patch:
        after(2, lambda: patch.setattr(Deadline, "is_near", lambda self: True))
        assert again("--name", "mine", "--max-time", "1h")[0] == OUT_OF_TIME
    assert cli("resume", "mine", "--max-time", "soon")[0] == 2
    given, init = [], Deadline.__init__
    monkeypatch.setattr(Deadline, "__init__", lambda self, *args: (given.append(args[1]), init(self, *args))[1])
    status, out, err = cli("resume", "mine", "--max-time", "2h")
    assert status == 0 and given == [7200.0], err


def test_a_run_that_offloaded_goes_on_without_when_it_is_not_shared_out(again, after, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after(2, lambda: patch.setattr(Deadline, "is_near", lambda self: True))
        assert again("--name", "mine", "--max-time", "1h")[0] == OUT_OF_TIME
    file = tmp_path / "runs" / "mine" / "run.yaml"
    text = file.read_text().replace("offload: false", "offload: true").replace("strategy: auto", "strategy: fsdp")
    assert "offload: true" in text and "strategy: fsdp" in text
    file.write_text(text)
    status, out, err = cli("resume", "mine", "--strategy", "auto")
    assert status == 0, err


def test_resume_asks_for_a_name(again):
    status, out, err = again("--resume")
    assert status == 2 and "Add --name" in err


def test_a_requeued_job_goes_on_with_its_run(again, after, monkeypatch, tmp_path):
    job = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    after(2, lambda: os.kill(os.getpid(), signal.SIGUSR1) if "SLURM_RESTART_COUNT" not in os.environ else None)
    assert again()[0] == 128 + signal.SIGUSR1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    status, out, err = again()
    assert status == 0 and "Resuming from step-2." in out
    assert [run.status for run in find_runs(tmp_path / "runs")] == ["finished"]
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    status, out, err = again()
    assert status == 0 and "Resuming" not in out and len(find_runs(tmp_path / "runs")) == 2, "another job's"
