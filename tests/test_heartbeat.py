"""A live run is told from a dead one by its heartbeat."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tiny_runs import trainer

from zoo.contract.hookspecs import hookimpl
from zoo.processes import process_is_alive
from zoo.runs import Run
from zoo.training.record import heartbeat
from zoo.training.record.heartbeat import beating, read_beat


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_beat_tells_step_and_process_and_goes_with_the_run(run):
    with beating(run, lambda: (7, 20)):
        beat = read_beat(run)
        assert (beat.step, beat.steps, beat.pid, beat.rank) == (7, 20, os.getpid(), 0)
        assert beat.is_alive and beat.age < 60
    assert read_beat(run) is None and list(run.path.iterdir()) == []


def test_it_is_renewed_without_a_step(run, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    with beating(run, lambda: (7, 20)):
        first = read_beat(run)
        while (later := read_beat(run)).time == first.time:
            time.sleep(0.01)
    assert later.step_time == first.step_time


def test_a_killed_run_leaves_an_old_beat(run):
    code = f"""
import time
from pathlib import Path
from zoo.processes import process_is_alive
from zoo.runs import Run
from zoo.training.record.heartbeat import beating
with beating(Run(Path({str(run.path)!r})), lambda: (1, 2)):
    print("begun", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    assert read_beat(run).is_alive
    child.send_signal(signal.SIGKILL)
    while process_is_alive(child.pid):
        time.sleep(0.01)
    assert not read_beat(run).is_alive, "it has ended, though nobody asked for its status yet"
    child.communicate()
    assert not read_beat(run).is_alive


def test_on_another_machine_a_beat_counts_while_it_is_new(run):
    with beating(run, lambda: (1, 2)):
        beat = replace(read_beat(run), host="another", pid=2**22)
    assert beat.is_alive
    assert not replace(beat, time=beat.time - 2 * heartbeat.SILENCE).is_alive
    assert replace(beat, time=beat.time + 3600).is_alive, "its clock is ahead"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": 1.0}'])
def test_a_beat_that_cannot_be_read_is_none(run, text):
    (run.path / "heartbeat.json").write_text(text)
    assert read_beat(run) is None


def test_a_folder_that_is_gone_does_not_end_the_beating(tmp_path):
    with beating(Run(tmp_path / "gone"), lambda: (1, 2)):
        pass


def test_a_run_beats_while_it_trains(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    beats = []

    class Look:
        @hookimpl
        def step_end(self, run):
            beats.append(read_beat(run))

    from zoo.training.execution import Execution

    start = Execution.__init__

    def init(self, *given, **named):
        start(self, *given, **named)
        self.plugins.register(Look(), "look")

    monkeypatch.setattr(Execution, "__init__", init)
    run = trainer(tmp_path, tiny_folder)("sft", max_steps=2)
    assert [(beat.steps, beat.pid) for beat in beats] == [(2, os.getpid())] * 2
    assert beats[-1].step <= 2 and read_beat(run) is None
