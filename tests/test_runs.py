"""The run folder: made once, found by path, name or `last`, readable after a kill at any moment."""

import json
import os

import pytest

import zoo
from zoo.errors import ZooError
from zoo.runs import Run, create_run, find_run, find_runs, is_run_name


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
    assert run.status == "unfinished" and run.metrics == [] and run.summary == {}


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
    assert [row["step"] for row in run.metrics] == [1, 2]


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
