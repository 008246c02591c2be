"""Answers to a few held-out prompts before and after training, where no evaluation writes any."""

from pathlib import Path

import pytest
from tiny_runs import broken_run, data_for, same_bytes, trainer, weights, write_rows

import zoo
from zoo.data.encoding.template import ChatTemplate
from zoo.evals import Subject
from zoo.evals.kept_scores import read_samples
from zoo.terminal import Console
from zoo.training.record import shown
from zoo.training.record.report import closing_panel, sample_pairs
from zoo.values.types import Answer

HELD_OUT = {"rows": 24, "eval_fraction": 0.25, "max_steps": 2}


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, tiny_folder)


@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_a_run_on_rows_of_ones_own_shows_answers_before_and_after(train, algo, capsys):
    run, plain = train(algo, name="asked", **HELD_OUT), train(algo, name="plain", score="none", **HELD_OUT)
    before, after = ([row for row in read_samples(run) if row["when"] == when] for when in ("before", "after"))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after] and len(after) == shown.PROMPTS
    assert before[0]["prompt"] != before[1]["prompt"] and all(row["length"] <= 64 for row in after)
    assert not read_samples(plain), "score none asks nothing"
    assert same_bytes(run, plain, "metrics.jsonl")
    assert all(value.equal(weights(plain)[name]) for name, value in weights(run).items())
    closing_panel(Console(width=400), run, run.summary)
    panel = capsys.readouterr().out
    assert [panel.count(word) for word in ("prompt ", "before ", "after  ")] == [2, 3, 3], "the table has two"


def test_an_online_run_shows_those_of_its_validations(train, capsys):
    rows = write_rows(Path("prompts.jsonl"), [{"prompt": f"Say {k}"} for k in range(24)])
    run = train(
        "grpo", data=rows, reward="zoo.testing.tiny:tiny_reward", max_new_tokens=4, answers_per_prompt=2, **HELD_OUT
    )
    assert {row["when"] for row in read_samples(run) if row["eval"] == "held-out"} == {"step 0", "step 1", "step 2"}
    closing_panel(Console(width=400), run, run.summary)
    panel = capsys.readouterr().out
    assert "prompt  " in panel
    pairs = [(old["score"], new["score"]) for old, new in sample_pairs(run)]
    assert ("The answer whose score rose most:" in panel) == any(new > old for old, new in pairs), pairs


def test_a_resumed_run_has_the_same_answers(train):
    options = {"algo": "sft", "save_every": 1, **HELD_OUT}
    whole, broken = train(name="whole", **options), broken_run(train, 1, **options)
    assert same_bytes(whole, zoo.resume(broken, quiet=True), "samples.jsonl")


def test_texts_and_reward_models_have_none(train):
    texts = write_rows(Path("texts.jsonl"), [{"text": f"One and {k} are numbers."} for k in range(24)])
    for algo, rows in (("lm", texts), ("rm", data_for("dpo", Path(), 24))):
        assert not read_samples(train(algo, data=rows, **{**HELD_OUT, "max_steps": 1})), algo


def test_prompts_that_leave_no_room_for_an_answer_and_repeated_ones_are_left_out(tiny_model, tiny_tokenizer):
    subject = Subject(tiny_model, tiny_tokenizer, ChatTemplate(tiny_tokenizer), "32-true")
    lengths = {"long": 2000, "first": 5, "second": 6, "third": 7}
    records = [
        {"record": {"prompt": name}, "completion": Answer.of([3] * lengths[name], [4])}
        for name in ("long", "first", "first", "second", "third")
    ]
    assert [row["prompt"] for row in shown.answers_to_some(subject, records)] == ["first", "second"]
