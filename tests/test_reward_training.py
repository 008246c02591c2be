"""Training with rewards that misbehave: it goes on with the answers that have one, or stops with a clear error."""

import json
import math
import re
import signal
from pathlib import Path

import pytest
from test_online import KillAt
from test_resume import in_child, installed
from tiny_runs import demonstrations, trainer, weights, write_rows

import zoo
from zoo.errors import PluginError, TrainingStopped

PLUGINS = Path(__file__).parent / "online_plugins.py"
MINE = '''
import os
import time


def some(completions, records):
    """Every third answer fails, each in its own way."""
    values = []
    for text in completions:
        kind = sum(map(ord, text)) % 9
        if kind == 0:
            raise ValueError("cannot say")
        if kind == 3:
            os._exit(5)
        values.append(float("nan") if kind == 6 else kind / 9)
    return values


def hangs(completions, records):
    while True:
        time.sleep(1)


def constant(completions, records):
    return [0.5] * len(completions)


def silent(completions, records):
    return [None] * len(completions)


batches = 0


def forgetful(completions, records):
    """Says nothing of every second rollout, and of two on end."""
    global batches
    batches += 1
    return [None if batches in (2, 4, 5) else i / 9 for i, _ in enumerate(completions)]
'''


@pytest.fixture
def train(tmp_path, tiny_folder):
    (tmp_path / "mine.py").write_text(MINE)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in demonstrations(10)[::2]])
    start = trainer(tmp_path, tiny_folder)

    def train(function, **options):
        return start(
            f"{PLUGINS}:Reinforce", data=prompts, reward=f"'{tmp_path}/mine.py:{function}'", max_new_tokens=6,
            minibatches=2, quiet=False, **options,
        )  # fmt: skip

    return train


def test_training_goes_on_without_the_answers_that_have_no_reward(train, capfd):
    run = train("some", epochs=4.8)
    rows = [row for row in run.log_history if "rollout/missing" in row]
    assert any(0 < row["rollout/missing"] < 1 for row in rows)
    assert all(math.isfinite(row["loss"]) for row in run.log_history if "loss" in row)
    assert all(value.isfinite().all() for value in weights(run).values())
    said = " ".join(capfd.readouterr().out.split())
    assert "rewards are missing" in said and "ValueError: cannot say" in said
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {type(sample["score"]) for sample in samples} <= {float, type(None)}


def test_a_reward_that_always_hangs_stops_training_with_its_line(train):
    with pytest.raises(PluginError, match=r"failed on all of 3 batches in a row: no reward within 0\.1 s") as caught:
        train("hangs", epochs=20.0, reward_timeout=0.4)
    assert re.search(r"mine\.py, line 2[12], in hangs", caught.value.message)


def test_rollouts_without_any_reward_are_said_and_counted(train, capfd):
    run = train("forgetful", epochs=4.8)
    missing = [row["rollout/missing"] for row in run.log_history if "rollout/missing" in row]
    assert missing == [0, 1, 0, 1, 1, 0]
    assert run.summary["unrewarded_rollouts"] == 3 and run.summary["skipped_steps"] == 6
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("none of the 8 answers got a reward; nothing is learned from them") == 3


def test_training_stops_where_no_answer_of_three_rollouts_got_a_reward(train, tmp_path, capfd):
    with pytest.raises(TrainingStopped, match=r"In 3 rollouts .* before step 5: .*silent.*gave none") as caught:
        train("silent", epochs=20.0)
    assert caught.value.exit_status == 1 and "zoo eval MODEL --reward" in caught.value.hint
    assert "Step 1: none of the 8 answers got a reward" in " ".join(capfd.readouterr().out.split())


def test_rollouts_without_any_reward_are_counted_through_a_kill(train, tmp_path):
    def broken():
        installed(KillAt("step_end", 3))
        train("silent", epochs=20.0, save_every=1, name="broken")

    assert in_child(broken, tmp_path / "output.txt") == 128 + signal.SIGKILL
    with pytest.raises(TrainingStopped, match="before step 5"):
        zoo.resume(tmp_path / "runs" / "broken", quiet=True)


def test_constant_rewards_are_said_during_training_once(train, capfd):
    train("constant", epochs=20.0)
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("Every reward of the last 3 rollouts was 0.5") == 1
    assert said.count("answers that all got the same reward") == 1
