"""The run folder: made once, found by path, name or `last`, readable after a kill at any moment."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from tiny_runs import cli

import zoo
from zoo.comparison.finished import compare_runs
from zoo.errors import ZooError
from zoo.runs import Run, create_run, find_run, find_runs, is_run_name, newest_of


def make(folder, name=None, default="sft-tiny"):
    run = create_run(str(folder), name, default, {"algo": "x", "lr": 1e-5}, "zoo train")
    # Files made in one test are too close in time to be told apart.
    moment = 1_000_000 + len(list(folder.iterdir()))
    os.utime(run.path / "run.yaml", (moment, moment))
    return run


def test_a_new_run_has_its_configuration_command_and_environment(tmp_path):
    run = make(tmp_path / "deep" / "runs")
    assert run.path == tmp_path / "deep" / "runs" / "sft-tiny-1"
    assert run.config == {"algo": "x", "lr": 1e-5}
    assert (run.path / "command.txt").read_text() == "zoo train\n"
    environment = run.read_json("environment.json")
    assert environment["packages"]["torch"][0].isdigit() and "path" not in str(environment).lower()
    assert run.status == "unfinished" and run.log_history == [] and run.summary == {}


def test_unnamed_runs_are_numbered_past_those_that_exist(tmp_path):
    assert [make(tmp_path).name for _ in range(3)] == ["sft-tiny-1", "sft-tiny-2", "sft-tiny-3"]
    (tmp_path / "dpo-tiny-1").mkdir()
    assert make(tmp_path, default="dpo-tiny").name == "dpo-tiny-2"


def test_a_name_that_is_taken_or_no_name_is_refused_with_what_to_do(tmp_path):
    make(tmp_path, "mine")
    with pytest.raises(ZooError, match="There is already a run .*mine") as caught:
        make(tmp_path, "mine")
    assert f"zoo resume {tmp_path / 'mine'}" in caught.value.hint
    Run(tmp_path / "mine").write_json("summary.json", {"status": "finished"})
    with pytest.raises(ZooError) as caught:
        make(tmp_path, "mine")
    assert "resume" not in caught.value.hint and f"--model {tmp_path / 'mine'}" in caught.value.hint
    for bad in ("a/b", "", "..", "-x", "last"):
        with pytest.raises(ZooError, match="is not a name for a run"):
            create_run(str(tmp_path), bad, "sft", {})


def test_a_folder_that_cannot_be_made_is_an_error_for_a_person(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="cannot be made in .*file") as caught:
        create_run(str(tmp_path / "file" / "runs"), None, "sft", {})
    assert "--out" in caught.value.hint


def test_a_run_is_found_by_path_name_and_last(tmp_path):
    first, second = make(tmp_path), make(tmp_path, "mine")
    out = str(tmp_path)
    assert find_run(str(first.path), "elsewhere") == first
    assert find_run("sft-tiny-1", out) == first
    assert find_run("last", out) == find_run("mine", out) == second
    assert find_runs(out) == [first, second]
    assert is_run_name("mine", out) and is_run_name("last", out) and is_run_name(str(first.path), "elsewhere")
    assert not is_run_name("smollm2-135m", out)


def test_an_unknown_run_gets_the_nearest_name(tmp_path):
    with pytest.raises(ZooError, match="No run is called 'last'") as caught:
        find_run("last", str(tmp_path))
    assert "zoo train" in caught.value.hint
    make(tmp_path, "kto-first")
    with pytest.raises(ZooError, match="Did you mean 'kto-first'") as caught:
        find_run("kto-frist", str(tmp_path))
    assert caught.value.hint == "There are: kto-first."


def test_folders_that_are_no_runs_are_not_listed(tmp_path):
    (tmp_path / "notes").mkdir()
    assert find_runs(str(tmp_path)) == [] and find_runs(str(tmp_path / "missing")) == []


def test_metrics_are_read_in_order_and_a_last_line_cut_by_a_kill_is_left_out(tmp_path):
    run = make(tmp_path)
    (run.path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    assert [row["step"] for row in run.log_history] == [1, 2]


def test_json_files_are_replaced_whole(tmp_path, monkeypatch):
    run = make(tmp_path)
    run.write_json("summary.json", {"status": "stopped", "text": "ä"})
    assert run.status == "stopped" and "ä" in (run.path / "summary.json").read_text(encoding="utf-8")

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        run.write_json("summary.json", {"status": "finished"})
    assert json.loads((run.path / "summary.json").read_text(encoding="utf-8"))["status"] == "stopped"


def test_the_model_and_the_checkpoints_lie_in_the_run(tmp_path):
    run = Run(tmp_path)
    assert (run.model_path, run.checkpoints) == (tmp_path / "model", tmp_path / "checkpoints")


def test_a_finished_run_loads_as_model_and_tokenizer(tmp_path, tiny_model, tiny_tokenizer):
    import torch

    run = make(tmp_path)
    with pytest.raises(ZooError, match="has no model yet"):
        run.load()
    tiny_model.save_pretrained(run.model_path)
    tiny_tokenizer.save_pretrained(run.model_path)
    model, tokenizer = run.load()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model.parameters(), strict=True))
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    again, _ = zoo.load("last", out=str(run.path.parent))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), tiny_model.parameters(), strict=True))


# -- the lock ------------------------------------------------------------------------------------------------------


def is_held(run):
    """Whether another process could not lock the run."""
    child = os.fork()
    if child == 0:
        try:
            with run.alone():
                os._exit(0)
        except ZooError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_run_stays_locked_whatever_is_replaced_in_it_and_wherever_it_is_moved(tmp_path):
    run = make(tmp_path, "mine")
    with run.alone():
        assert is_held(run)
        edited = run.path / "edited"
        edited.write_text((run.path / "run.yaml").read_text())
        os.replace(edited, run.path / "run.yaml")
        assert is_held(run), "an editor replaces the file that it writes"
        shutil.copytree(run.path, tmp_path / "copy")
        assert not is_held(Run(tmp_path / "copy")), "a copy is another run"
        moved = Run(run.path.rename(tmp_path / "moved"))
        assert is_held(moved)
    assert not is_held(moved)


def test_where_folders_cannot_be_locked_a_file_in_them_is(tmp_path, monkeypatch):
    """On NFS only a file that is open for writing can be locked."""
    import fcntl

    run, lock = make(tmp_path, "mine"), fcntl.flock

    def on_nfs(descriptor, how):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    with run.alone():
        assert is_held(run)
    assert not is_held(run)


# -- damaged files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1,\n "b": }', "summary.json:2 is damaged: Expecting value"),
        (b"[1]", "summary.json is damaged: it holds a list"),
        (b'{"a": "\xff"}', "summary.json is damaged: 'utf-8' codec"),
        (b'{"a":' * 100_000, "summary.json is damaged: maximum recursion"),
    ],
)
def test_a_damaged_file_is_named_with_its_line_and_what_to_do(tmp_path, content, said):
    run = make(tmp_path, "mine")
    (run.path / "summary.json").write_bytes(content)
    with pytest.raises(ZooError) as caught:
        _ = run.status
    assert said in caught.value.message
    assert caught.value.hint == (
        "Put it back from a copy, or remove it: `zoo resume` then makes the end of the run again."
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cases.jsonl", {"a": 1}, "cases.jsonl:1 is damaged: it lacks 'eval'"),
        ("samples.jsonl", {"eval": "x"}, "samples.jsonl:1 is damaged: it lacks 'when'"),
        ("summary.json", {"scores": 1e308}, "summary.json is damaged: 'scores' is a number, not an object"),
        ("summary.json", {"scores": {"after": {"x": 1}}}, "summary.json is damaged: a score after training is no"),
        ("data.json", {"train": [1]}, "data.json is damaged: 'train' is a list, not an object"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, name, content, said):
    run = make(tmp_path, "mine")
    (run.path / name).write_text(json.dumps(content) + "\n")
    with pytest.raises(ZooError) as caught:
        compare_runs([run, run])
    assert said in caught.value.message


def test_a_command_that_is_no_text_is_shown_as_far_as_it_is(tmp_path):
    run = make(tmp_path, "mine")
    (run.path / "command.txt").write_bytes(b"zoo train \xff\n")
    assert run.command == "zoo train \ufffd"


def test_a_damaged_row_is_named_with_its_line(tmp_path):
    run = make(tmp_path, "mine")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n{"st')
    with pytest.raises(ZooError, match=r"metrics\.jsonl:2 is damaged: Expecting") as caught:
        _ = run.log_history
    assert "remove this line, and reports go without it" in caught.value.hint


def test_a_damaged_run_does_not_hide_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        make(tmp_path / "runs", name)
    Path("runs/first/summary.json").write_text("{")
    status, out, _ = cli("runs")
    assert status == 0 and "damaged" in out and "second" in out and "runs/first/summary.json:1 is damaged" in out
    assert [row["status"] for row in json.loads(cli("runs", "--json")[1])] == ["damaged", "unfinished"]
    status, _, err = cli("runs", "first")
    assert status == 2 and "runs/first/summary.json:1 is damaged" in err and "Traceback" not in err


def test_an_error_names_the_newest_runs_and_counts_the_others():
    names = [f"run-{i}" for i in range(12)]
    assert newest_of(names[:10]) == ", ".join(names[:10])
    assert newest_of(names) == ", ".join(names[2:]) + " and 2 older ones (`zoo runs`)"
