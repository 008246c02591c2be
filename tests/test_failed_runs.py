"""A run whose every step was skipped has trained nothing: it has failed, and is not shown as a success."""

import re
from unittest import mock

import pytest
from tiny_runs import cli, data_for, float32_flags, plugin_file, trainer

import zoo
from zoo.errors import TrainingFailed, ZooError
from zoo.runs import Run
from zoo.training.step.module import PostTraining

ALGORITHM = """
class Mine(Algorithm):
    api_version = 2
    '''A loss that is {what} in its first steps.'''

    data = "demonstration"

    @dataclass
    class Config:
        broken: int = 100
        '''Steps without a loss.'''

    def loss(self, batch, models, config, step):
        logps = models.policy.logps(batch.completion)
        if step < config.broken:
            return {broken}
        return Loss(-logps.per_token, logps.mask)
"""
LOSSES = {
    "no number": "Loss(-logps.per_token * float('nan'), logps.mask)",
    "of nothing": "Loss(-logps.per_token * 0.0, torch.zeros_like(logps.per_token))",
}


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    start = trainer(tmp_path, tiny_folder)

    def train(what, **options):
        algo = plugin_file(tmp_path, ALGORITHM.format(what=what, broken=LOSSES[what]))
        return start(algo, data=data_for("sft", tmp_path), **{"max_steps": 2, "score": "none", **options})

    return train


@pytest.mark.parametrize(
    ("what", "reason"), [("no number", "no finite number"), ("of nothing", "there was nothing to learn")]
)
def test_a_run_without_a_step_that_trained_has_failed(train, tmp_path, capsys, what, reason):
    with pytest.raises(TrainingFailed, match=rf"All 2 steps were skipped, because .*{reason}") as failed:
        train(what, name="mine", quiet=False, save_every=1)
    assert failed.value.exit_status == 1 and "zoo data" in failed.value.hint
    run = Run(tmp_path / "runs" / "mine")
    assert run.status == "failed" and reason in run.summary["reason"]
    assert run.summary["steps"] == run.summary["skipped_steps"] == 2
    assert not {"model", "checkpoints", "report.html"} & {file.name for file in run.path.iterdir()}
    assert "next    " not in capsys.readouterr().out, "the panel of success"
    with pytest.raises(TrainingFailed, match=reason) as again:
        zoo.resume(run.path, quiet=True)
    assert "remove" in again.value.hint
    with pytest.raises(ZooError, match="has failed"):
        train(what, name="mine")
    with pytest.raises(ZooError, match="has failed"):
        train(what, model=str(run.path))


def test_the_command_ends_with_status_1_and_the_listing_says_why(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    plugin_file(tmp_path, ALGORITHM.format(what="no number", broken=LOSSES["no number"]))
    flags = float32_flags(max_steps=1, score="none", name="mine")
    data = data_for("sft", tmp_path)
    status, out, error = cli("train", "--algo", "./bad.py:Mine", "--model", tiny_folder, "--data", data, *flags)
    assert status == 1 and "The only step was skipped" in error and "next    " not in out
    status, out, _ = cli("runs")
    assert status == 0 and "failed" in out
    assert "The only step was skipped" in cli("runs", "mine")[1]
    assert cli("resume", "mine")[0] == 1


@pytest.mark.parametrize("what", LOSSES)
def test_a_run_with_one_step_that_trained_is_finished(train, what):
    run = train(what, broken=1)
    assert run.status == "finished" and run.summary["skipped_steps"] == 1 and run.model_path.is_dir()


def test_rewards_that_are_all_missing(tmp_path, tiny_folder, monkeypatch):
    """One rollout, no reward: it used to end as a run of one step that was skipped."""
    (tmp_path / "silent.py").write_text("def silent(completions, records):\n    return [None] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingFailed, match="nothing to learn") as failed:
        trainer(tmp_path, tiny_folder)(
            "grpo", data=data_for("sft", tmp_path), reward="./silent.py:silent", max_steps=1, batch_size=8,
            max_new_tokens=4, score="none", name="mine",
        )  # fmt: skip
    assert "samples.jsonl" in failed.value.hint
    assert Run(tmp_path / "runs" / "mine").summary["unrewarded_rollouts"] == 1


def test_a_run_that_an_error_ends_says_why_and_goes_on_when_that_is_mended(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = PostTraining.training_step

    def fails(self, batch, index):
        if self.steps_done == 2:
            raise ZooError("The reward gave a text.", "Repair it.")
        return real(self, batch, index)

    options = {"name": "mine", "max_steps": 4, "save_every": 1, "broken": 0}
    with mock.patch.object(PostTraining, "training_step", fails), pytest.raises(ZooError, match="gave a text"):
        train("no number", **options)
    run = Run(tmp_path / "runs" / "mine")
    assert run.summary == {"status": "stopped", "steps": 2, "reason": "The reward gave a text.", "hint": "Repair it."}
    assert "  The reward gave a text. Repair it." in cli("runs", "mine")[1]
    assert zoo.resume(run.path, quiet=True).status == "finished"
    assert "gave a text" not in cli("runs", "mine")[1]


def test_the_end_of_a_run_says_where_its_time_went(train, capsys):
    run = train("no number", broken=0, quiet=False, name="mine")
    stages = run.read_json("timing.json")["stages"]
    assert list(stages) == ["loading", "before", "training", "after"] and min(stages.values()) >= 0
    assert re.search(r"Took \d+s: reading and loading \d+s, .*report \d+s\.", capsys.readouterr().out)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "seconds of loading" in page and "&#39;loading&#39;" not in page
    assert "stages" not in run.timing and run.timing["seconds"] > 0
