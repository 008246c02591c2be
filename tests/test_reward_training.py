"""Training with rewards that misbehave: it goes on with the answers that have one, or stops with a clear error."""

import json
import math
import re
from pathlib import Path

import pytest
from tiny_runs import demonstrations, trainer, weights, write_rows

from zoo.errors import PluginError

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
    rows = [row for row in run.metrics if "rollout/missing" in row]
    assert any(0 < row["rollout/missing"] < 1 for row in rows)
    assert all(math.isfinite(row["loss"]) for row in run.metrics if "loss" in row)
    assert all(value.isfinite().all() for value in weights(run).values())
    said = " ".join(capfd.readouterr().out.split())
    assert "rewards are missing" in said and "ValueError: cannot say" in said
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {type(sample["score"]) for sample in samples} <= {float, type(None)}


def test_a_reward_that_always_hangs_stops_training_with_its_line(train):
    with pytest.raises(PluginError, match=r"failed on all of 3 batches in a row: no reward within 0\.1 s") as caught:
        train("hangs", epochs=20.0, reward_timeout=0.4)
    assert re.search(r"mine\.py, line 2[12], in hangs", caught.value.message)


def test_constant_rewards_are_said_during_training_once(train, capfd):
    train("constant", epochs=20.0)
    said = " ".join(capfd.readouterr().out.split())
    assert said.count("Every reward of the last 3 rollouts was 0.5") == 1
    assert said.count("answers that all got the same reward") == 1
