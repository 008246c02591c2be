"""`zoo runs` as a list in an order, while a run goes on, and when a run is deleted; words for algorithms; help."""

import json
import os
import socket
import time

import pytest
from tiny_runs import cli

from zoo.runs import Run, create_run


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def make(name, score=None, steps=3, model="base", out="runs"):
    run = create_run(out, name, "x", {"algo": "sft", "model": model, "data": "rows.jsonl"}, device="a chip")
    (run.path / "model").mkdir()
    scores = {} if score is None else {"instructions": score}
    run.write_json("summary.json", {"status": "finished", "steps": steps, "before": scores, "after": scores})
    return run


def going_on(name):
    """A run that this process trains, 40 of 100 steps in."""
    run = make(name)
    (run.path / "summary.json").unlink()
    now = time.time()
    beat = {"time": now, "step": 40, "step_time": now, "steps": 100, "pid": os.getpid(), "host": socket.gethostname(),
            "rank": 0, "processes": 1}  # fmt: skip
    run.write_json("heartbeat.json", beat)
    rows = [{"step": i, "seconds/training": 2.0, "speed/training": 1000.0} for i in range(1, 41)]
    (run.path / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 40, "loss": 1.0}) + "\n")
    return run


def names(*arguments):
    status, out, _ = cli("runs", "--json", *arguments)
    assert status == 0
    return [row["name"] for row in json.loads(out)]


def test_runs_are_listed_by_age_or_by_a_key_with_the_largest_last():
    for name, score, steps in (("b", 0.5, 30), ("a", None, 4), ("c", 0.25, 5)):
        make(name, score, steps)
    assert names() == ["b", "a", "c"] and names("--sort", "name") == ["a", "b", "c"]
    assert names("--sort", "steps") == ["a", "c", "b"]
    assert names("--sort", "instructions") == ["a", "c", "b"], "the run without the score comes first"
    status, _, err = cli("runs", "--sort", "instruction")
    assert status == 2 and "Did you mean 'instructions'?" in err


def test_a_run_that_goes_on_is_shown_with_step_speed_and_time_left():
    going_on("mine")
    (row,) = json.loads(cli("runs", "--json")[1])
    assert (row["status"], row["steps"], row["total_steps"]) == ("training", 40, 100)
    assert row["tokens_per_second"] == pytest.approx(1000) and row["seconds_left"] == pytest.approx(120)
    text = cli("runs")[1]
    assert "training" in text and "40/100" in text and "2m00s left" in text and "1,000 tokens/s" in text


def test_no_resume_is_offered_of_a_run_that_goes_on(monkeypatch):
    run = going_on("mine")
    (run.path / "model").rmdir()
    with run.alone():
        said = [cli("train", "--name", "mine", "--dry-run"), cli("chat", "mine", "--prompt", "hello")]
    for status, out, err in said:
        assert status == 2 and "zoo runs --follow" in out + err and "zoo resume" not in out + err


def test_a_run_is_deleted_after_a_question_or_with_yes():
    make("mine"), make("other"), make("last-one")
    status, _, err = cli("runs", "--delete", "mine")
    assert status == 2 and "zoo runs --delete mine --yes" in err and names() == ["mine", "other", "last-one"]
    status, out, _ = cli("runs", "--delete", "mine", "--yes")
    assert status == 0 and "Deleted runs/mine" in out and names() == ["other", "last-one"]
    assert sorted(os.listdir("runs")) == ["last-one", "other"], "nothing half-deleted stays"


def test_what_goes_on_or_lies_elsewhere_is_not_deleted(place):
    make("elsewhere", out="others"), make("mine")
    (place / "runs" / "link").symlink_to(place / "others" / "elsewhere")
    for name in ("others/elsewhere", "link"):
        status, _, err = cli("runs", "--delete", name, "--yes")
        assert status == 2 and "only those are deleted" in err
    going_on("now")
    status, _, err = cli("runs", "--delete", "now", "--yes")
    assert status == 2 and "is being trained" in err
    with Run(place / "runs" / "mine").alone():
        assert cli("runs", "--delete", "mine", "--yes")[0] == 2, "its process may be silent"
    assert (place / "others" / "elsewhere" / "run.yaml").is_file() and len(os.listdir("runs")) == 3


def test_a_run_is_deleted_with_a_word_on_those_that_began_with_it():
    make("base"), make("later", model="runs/base"), make("unrelated", model="runs/other")
    out = cli("runs", "--delete", "base", "--yes")[1]
    assert "later began with its model" in " ".join(out.split()) and "unrelated" not in out


def test_a_run_knows_its_zoo_commit_date_and_device(place):
    facts = make("mine").read_json("environment.json")
    assert facts["zoo"] and facts["device"] == "a chip" and facts["date"].endswith("+00:00")
    assert "commit" not in facts or len(facts["commit"].removesuffix("-dirty")) == 40
    assert str(place) not in json.dumps(facts)


# -- words ---------------------------------------------------------------------------------------------------------


def test_an_algorithm_is_a_word_or_an_option():
    def options(*arguments):
        return json.loads(cli("train", *arguments, "--dry-run", "--json")[1])["options"]

    for arguments in (("dpo",), ("dpo", "--algo", "dpo"), ("--algo", "dpo")):
        found = options(*arguments, "--beta", "0.3")
        assert (found["algo"]["value"], found["beta"]["value"]) == ("dpo", 0.3)
    status, _, err = cli("train", "dpo", "--algo", "kto", "--dry-run")
    assert status == 2 and "Two algorithms are named: dpo, and --algo kto." in err


def test_help_of_a_command_is_its_help_page():
    for words in ((), ("resume",), ("train", "dpo")):
        assert cli("help", *words)[1].split("Commands")[-1] == cli(*words, "--help")[1].split("Commands")[-1]
    assert "--beta" in cli("help", "train", "dpo")[1] and cli("help", "nothere")[0] == 2


@pytest.mark.parametrize("listing", [["recipes"], ["eval", "--list"], ["algos"]], ids=" ".join)
def test_listings_fit_60_columns_with_whole_names(listing, monkeypatch):
    rows = json.loads(cli(*listing, "--json")[1])
    monkeypatch.setenv("COLUMNS", "60")
    text = cli(*listing)[1]
    assert max(map(len, text.splitlines())) <= 60
    for row in rows:
        paper = str(row.get("paper", "")).split(" ")[0].removeprefix("arXiv:")
        assert row["name"] in text and paper in text
