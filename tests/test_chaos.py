"""The harness that kills: it sees every file event, finds what is planted, and counts only kills that say something."""

import json
import operator
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_docs import block

from zoo.errors import ZooError
from zoo.paths import write_text
from zoo.testing.chaos.__main__ import main
from zoo.testing.chaos.aims import Aim
from zoo.testing.chaos.processes import one_thread
from zoo.testing.chaos.results import Results
from zoo.testing.chaos.training import training
from zoo.testing.chaos.trials import Trial, Trials

# -- another kind of file: two functions are an aim -----------------------------------------------------------------


def write_two(folder):
    write_text(folder / "a.json", json.dumps(list(range(100))))
    write_text(folder / "b.json", "{}")


def read_two(folder):
    return {file.name: file.read_text() for file in folder.iterdir() if not file.name.startswith(".")}


SAFE = Aim("two files", make=write_two, read=read_two)


def write_in_place(folder):
    if not (folder / "a.json").exists():
        (folder / "a.json").write_text(json.dumps(list(range(100))))


UNSAFE = Aim("in place", make=write_in_place, read=read_two)


def every_type(folder):
    """One event of each kind."""
    with open(folder / "a", "wb") as stream:
        stream.write(b"12345678")
        stream.flush()
        os.fsync(stream.fileno())
        stream.truncate(2)
    (folder / "tree").mkdir()
    os.rename(folder / "a", folder / "tree" / "b")
    descriptor = os.open(folder / "c", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"123")
    os.close(descriptor)
    import shutil

    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, folder / "d")
    torch.save({"x": 1}, folder / "e")
    shutil.rmtree(folder / "tree")
    Path(folder / "c").unlink()


EVERY = Aim("every type", make=every_type, read=lambda folder: {})


def run(*arguments, **files):
    """The command in this process; it forks."""
    return main([str(argument) for argument in arguments])


def results(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_file_event_is_seen(tmp_path):
    events = [(event.what, event.file) for event in Trials(EVERY, tmp_path).unbroken.traces[0].events]
    assert events == [
        ("open", "a"), ("write", "a"), ("fsync", "a"), ("truncate", "a"), ("mkdir", "tree"), ("rename", "tree/b"),
        ("open", "c"), ("write", "c"), ("native write", "d"), ("native write", "e"), ("rmtree", "tree"),
        ("remove", "tree/b"), ("rmdir", "tree"), ("remove", "c"),
    ]  # fmt: skip


def test_a_file_that_appears_at_once_survives_a_kill_at_every_event(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    assert run("--aim", "test_chaos:SAFE", "--every-event", "--append", file, "--folder", tmp_path) == 0
    rows = results(file)
    assert [row["hits"][0]["event"] for row in rows] == [
        "open .tmp-a.json", "write .tmp-a.json", "rename a.json", "open .tmp-b.json", "write .tmp-b.json",
        "rename b.json",
    ]  # fmt: skip
    assert all(hit["status"] == -signal.SIGKILL and hit["counts"] for row in rows for hit in row["hits"])
    assert "| all | 6 |" in capsys.readouterr().out


def test_a_file_that_is_written_in_place_is_lost(tmp_path, capsys):
    """Cut in the middle of its write, it looks as if it were there."""
    assert run("--aim", "test_chaos:UNSAFE", "--every-event", "--folder", tmp_path) == 1
    text = capsys.readouterr().out
    assert "(write a.json): LOST:" in text and "different: a.json" in text
    assert "(open a.json): equal" in text


def test_only_files_of_a_glob_are_hit(tmp_path, capsys):
    assert run("--aim", "test_chaos:SAFE", "--every-event", "--files", "*b.json", "--folder", tmp_path) == 0
    text = capsys.readouterr().out
    assert "| all | 3 |" in text and "a.json" not in text


def test_the_aim_of_the_page_survives(tmp_path, monkeypatch, capsys):
    (tmp_path / "jar.py").write_text(block("docs/chaos.md", "jar.py"))
    monkeypatch.syspath_prepend(tmp_path)
    assert run("--aim", "jar:JAR", "--every-event", "--folder", tmp_path / "work") == 0
    assert "| all | 3 |" in capsys.readouterr().out


def test_a_trial_is_repeated_by_its_targets(tmp_path, capsys):
    assert run("--aim", "test_chaos:UNSAFE", "--at", "loading@0#1", "--folder", tmp_path) == 1
    assert "kill loading@0#1 (write a.json): LOST" in capsys.readouterr().out
    assert run("--aim", "test_chaos:UNSAFE", "--at", "loading@0#7", "--folder", tmp_path) == 2
    assert "in place has no target 'loading@0#7'" in capsys.readouterr().err


def test_a_full_disk_that_leaves_half_a_file_is_lost(tmp_path, capsys):
    folder = tmp_path / "work"
    command = ("--aim", "test_chaos:UNSAFE", "--every-event", "--fault", "full", "--folder", folder)
    assert run(*command) == 1
    assert "It ended with status 70" in capsys.readouterr().out, "an error that is no message"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aim", "nowhere:AIM"], "There is no aim nowhere:AIM"),
        (["--aim", "test_chaos:Path"], "is no Aim but type"),
        (["--algo", "spo"], "spo"),
    ],
)
def test_a_mistake_is_told(arguments, message, capsys):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_phase_whose_function_is_gone_is_told(tmp_path):
    aim = Aim("x", make=write_two, read=read_two, phases={"zoo.paths:write_it": "writing"})
    with pytest.raises(ZooError, match="There is no zoo.paths:write_it, which a phase is named after"):
        Trials(aim, tmp_path)


# -- results -------------------------------------------------------------------------------------------------------


def trial(**changes):
    hit = {"phase": "step", "counts": True, "status": -9}
    return Trial(**{"aim": "a", "processes": 1, "fault": "kill", "seed": 0, "hits": [hit], **changes})


def test_results_add_up_over_calls_and_survive_a_kill(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    Results(file).add(trial())
    with file.open("a") as stream:
        stream.write('{"aim": "a", "hi')
    again = Results(file)
    again.add(trial(processes=2))
    found = Results(file)
    assert (len(found.kills(1)), len(found.kills(2))) == (1, 1)
    assert "| step | 1 | 1 |" in found.tables()
    assert run("--kills", 0, "--append", file) == 0
    assert found.tables() in capsys.readouterr().out


def test_lost_trials_and_hits_that_say_nothing_do_not_count(tmp_path):
    found = Results()
    found.add(trial(lost="different: metrics.jsonl"))
    found.add(trial(hits=[{"phase": "step", "counts": False, "status": -9}]))
    found.add(trial(fault="sigterm"))
    assert found.kills() == [] and len(found.lost) == 1
    assert "kill: 2 trials, 1 lost" in found.tables()


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    file = tmp_path / "results.jsonl"
    common = ("--append", file, "--folder", tmp_path / "work", "--seed", 1)
    assert run("--algo", "rm", "--no-lora", "--kills", 3, *common) == 0
    assert run("--algo", "ppo", "--lora", "--kills", 2, "--each", 2, *common) == 0
    assert run("--algo", "sft", "--no-lora", "--processes", 2, "--kills", 2, "--each", 2, *common) == 0
    assert run("--algo", "kto", "--no-lora", "--mixture", "--kills", 2, "--each", 2, *common) == 0
    assert run("--algo", "dpo", "--no-lora", "--store", "--processes", 2, "--kills", 2, "--each", 2, *common) == 0
    rows = results(file)
    kills = [hit for row in rows for hit in row["hits"] if hit["counts"]]
    assert len(kills) >= 9 and {hit["status"] for hit in kills} == {-signal.SIGKILL}
    assert {row["processes"] for row in rows} == {1, 2}
    assert all(hit["steps_after"] or hit["none_left"] for hit in kills)


@pytest.mark.long
def test_sharded_runs_go_on_with_the_same_and_with_other_numbers_of_processes(tmp_path):
    sharded = ("--algo", "sft", "--no-lora", "--processes", 2, "--strategy", "fsdp", "--seed", 1)
    file = tmp_path / "results.jsonl"
    assert run(*sharded, "--kills", 3, "--each", 2, "--append", file, "--folder", tmp_path / "two") == 0
    for resumed in (1, 4):
        more = ("--resumed", resumed, "--kills", 1, "--each", 1, "--phase", "step", "--phase", "writing a checkpoint")
        assert run(*sharded, *more, "--append", file, "--folder", tmp_path / str(resumed)) == 0
    assert {row["aim"] for row in results(file)} == {
        "sft --strategy fsdp", "sft --strategy fsdp --resumed 1", "sft --strategy fsdp --resumed 4",
    }  # fmt: skip


def test_what_is_equal_is_for_the_aim_to_say(tmp_path):
    def made(folder):
        (folder / "number").write_text(str(1.0 + 1e-7 * len(folder.name)))

    def read_number(folder):
        return {"number": float((folder / "number").read_text())}

    rounded = Aim("rounded", make=made, read=read_number, same=lambda a, b: abs(a - b) < 1e-3)
    assert Trials(rounded, tmp_path).trial([], "kill", 0).lost == ""
    assert "different: number" in Trials(replace(rounded, same=operator.eq), tmp_path).trial([], "kill", 0).lost


def test_a_store_that_two_processes_want_survives_the_end_of_either(tmp_path):
    """Which of them is ahead when a kill comes depends on the machine: more kills, until both were hit."""
    file, hit = tmp_path / "results.jsonl", set()
    common = ("--processes", 2, "--kills", 6, "--append", file, "--folder", tmp_path / "work")
    for seed in range(2, 8):
        assert run("--aim", "zoo.testing.chaos.store:STORE", "--seed", seed, *common) == 0
        hit |= {one["rank"] for row in results(file) for one in row["hits"]}
        if hit == {0, 1}:
            return
    raise AssertionError(f"only process {hit} was hit")


def test_a_step_that_is_recorded_twice_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.fitting.cut", lambda run, marks, step: None)
    aim = training("sft")
    aim.prepare(tmp_path)
    with one_thread():
        trials = Trials(aim, tmp_path)
        # A kill before the row is written has nothing to find; one of these comes after it.
        late = [
            target for target in trials.moments() if target.phase in ("writing records", "step") and target.step >= 3
        ]
        lost = next(filter(None, (trials.trial([target], "kill", 0).lost for target in late)), "")
    assert "different:" in lost and "run/metrics.jsonl" in lost


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sigterm", "sigint", "full", "damage"])
def test_other_faults(tmp_path, fault):
    assert run("--algo", "sft", "--lora", "--fault", fault, "--kills", 6, "--seed", 3, "--folder", tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_every_algorithm(tmp_path, processes):
    assert run("--processes", processes, "--kills", 60, "--folder", tmp_path) == 0


sys.modules.setdefault("test_chaos", sys.modules[__name__])
