"""A run that is told to stop saves, ends with a status that a scheduler understands, and goes on where it stopped."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_runs import cli, same_bytes, trainer

import zoo
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.errors import TrainingStopped, ZooError, was_asked
from zoo.numbers import seconds_in
from zoo.training.record import signals
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
    with pytest.raises(ZooError, match="max_time.*must be a time with its unit") as refused:
        train("sft", max_time=text)
    assert "--max-time 3h50m" in refused.value.hint


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
