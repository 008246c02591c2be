"""A checkpoint is a model: `RUN@step-N` and `RUN@last` wherever a model is named, while its run goes on and after."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import cli, data_for, trainer, weights, write_rows

import zoo
from zoo.cli.completion import model_names
from zoo.contract import registry
from zoo.contract.hookspecs import hookimpl
from zoo.errors import TrainingStopped, ZooError
from zoo.models.names import find_checkpoint, look_for
from zoo.models.start import resolve_start
from zoo.runs import Run, is_run_name, split_checkpoint
from zoo.testing.tiny import tiny_rows


def say(text):
    pass


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def kept(train):
    """A finished run of three steps that keeps all of its checkpoints."""
    return lambda algo="sft", **options: train(
        algo, **{"name": "mine", "max_steps": 3, "keep_every": 1, "lr": 1e-2, "score": "none", **options}
    )


def loaded(name):
    return load_file(resolve_start(name, "runs", say).folder / "model.safetensors")


def test_the_last_checkpoint_is_the_model(kept):
    run = kept()
    last, first = loaded("mine@last"), loaded("mine@step-1")
    assert all(torch.equal(value, last[name]) for name, value in weights(run).items())
    assert any(not torch.equal(value, first[name]) for name, value in last.items())
    model, tokenizer = zoo.load("mine@step-1")
    assert tokenizer.chat_template and torch.equal(
        dict(model.named_parameters())["model.norm.weight"], first["model.norm.weight"]
    )


def test_adapters_of_a_checkpoint_load_on_their_base(kept):
    kept(lora=True, lora_rank=2)
    folder = resolve_start("mine@last", "runs", say).folder
    found, final = (load_file(f"{place}/adapter_model.safetensors") for place in (folder, "runs/mine/model"))
    assert all(torch.equal(value, found[name]) for name, value in final.items())
    status, out, err = cli("export", "mine@step-2", "merged", "--merge")
    assert status == 0 and os.path.isfile("merged/model.safetensors"), err


def test_adapters_on_adapters_bring_their_base(kept):
    kept(name="below", lora=True, lora_rank=2)
    kept(model="below@step-2", lora=True, lora_rank=2, seed=3)
    assert Run(Path("runs/mine")).config["model"].endswith("runs/below@step-2")
    loaded_model, _ = zoo.load("mine@last")
    final, _ = zoo.load("mine")
    state = final.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded_model.state_dict().items())


def test_a_reward_model_of_a_checkpoint_scores(kept, tmp_path, tiny_folder):
    kept("rm", data=data_for("dpo", tmp_path))
    source = resolve_start("mine@step-2", "runs", say)
    status, out, err = cli("chat", "mine@step-2", "--prompt", "Hello")
    assert status == 2 and "is a reward model" in err
    assert (source.folder / "model.safetensors").is_file()
    status, out, err = cli("eval", "mine@step-2", "--eval", f"pair_accuracy(data={data_for('dpo', tmp_path)})")
    assert status == 0 and "pair_accuracy" in out, err
    prompts = write_rows(tmp_path / "prompts.jsonl", tiny_rows("prompt", 4))
    flags = ["--data", prompts, "--max-new-tokens", "3", "--reward", "mine@step-2"]
    status, out, err = cli("eval", tiny_folder, *flags)
    assert status == 0 and "mine@step-2" in out, err


def test_a_process_reward_model_scores_steps(kept, tmp_path):
    data = write_rows(tmp_path / "steps.jsonl", tiny_rows("stepwise", 12))
    kept("prm", data=data)
    model, _ = zoo.load("mine@last")
    assert model.config.reward_unit == "step"


def test_the_critic_of_a_checkpoint_is_left_out(kept, tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", tiny_rows("prompt", 12))
    run = kept("ppo", data=data, reward="length", max_new_tokens=4, critic="own", answers_per_prompt=1, epochs=2)
    assert any(name.startswith("critic.") for name in load_file(run.checkpoints / "step-3" / "weights.safetensors"))
    last = loaded("mine@last")
    assert all(torch.equal(value, last[name]) for name, value in weights(run).items())


def test_a_stopped_run_can_be_used_and_built_upon(train, monkeypatch):
    class Stop:
        @hookimpl
        def step_end(self, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    modules, broken = registry.plugin_modules()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "plugin_modules", lambda: ((*modules, ("stop@test", Stop())), broken))
        with pytest.raises(TrainingStopped):
            train("sft", name="mine", max_steps=4, score="none")
    with pytest.raises(ZooError, match="no model yet") as refused:
        zoo.load("mine")
    assert "mine@last" in refused.value.hint
    status, out, err = cli("chat", "mine@last", "--prompt", "red", "--max-new-tokens", "3")
    assert status == 0, err
    run = train("sft", model="mine@last", max_steps=1, score="none")
    assert run.name.startswith("sft-mine-step-2") and run.config["model"].endswith("runs/mine@step-2")


def test_making_a_model_draws_no_random_number(kept):
    kept()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    loaded("mine@step-1")
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(kept):
    kept()
    with pytest.raises(ZooError, match="no checkpoint 'step-30'.* Did you mean 'step-3'") as caught:
        look_for("mine@step-30", "runs")
    assert "mine@step-1, mine@step-2, mine@step-3; the newest is mine@last" in caught.value.hint
    shutil.rmtree("runs/mine/checkpoints")
    with pytest.raises(ZooError, match="no checkpoint 'last'") as caught:
        find_checkpoint("mine@last", "runs")
    assert "It has none. It is finished; its model is mine." in caught.value.hint
    status, out, err = cli("eval", "other@last")
    assert status == 2 and "No run is called 'other'" in err


def test_a_dry_run_looks_for_it_and_makes_nothing(kept, tmp_path):
    kept()
    found = look_for("mine@last", "runs")
    assert found.source.name == "runs/mine@step-3" and "made of the checkpoint" in found.note
    assert not (tmp_path / "cache" / "models").exists()


def test_a_checkpoint_of_another_model_is_refused(kept):
    run = kept()
    file = run.checkpoints / "step-1" / "weights.safetensors"
    broken = load_file(file)
    broken.pop("policy.model.norm.weight")
    save_file(broken, file)
    with pytest.raises(ZooError, match="does not fit the model that mine started from: model.norm.weight"):
        loaded("mine@step-1")
    file.write_bytes(b"half")
    with pytest.raises(ZooError, match="weights.safetensors is damaged"):
        loaded("mine@step-1")


def test_the_newest_may_be_removed_while_it_is_read(kept, monkeypatch):
    run = kept()
    from zoo.models import start

    original, calls = start._weights, []

    def removed(checkpoint):
        calls.append(checkpoint.name)
        if len(calls) == 1:
            shutil.rmtree(checkpoint)
        return original(checkpoint)

    monkeypatch.setattr(start, "_weights", removed)
    assert resolve_start("mine@last", "runs", say).name == f"runs/{run.name}@step-2"
    assert calls == ["step-3", "step-2"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mine@step-200", ("mine", "step-200")),
        ("last@last", ("last", "last")),
        ("a@b@step-2", ("a@b", "step-2")),
        ("owner/name@main", ("owner/name@main", "")),
        ("@last", ("@last", "")),
        ("mine", ("mine", "")),
    ],
)
def test_names_of_checkpoints_are_told_from_others(name, parts):
    assert split_checkpoint(name) == parts


def test_a_checkpoint_of_a_run_is_a_run_name(kept):
    kept()
    assert is_run_name("mine@last") and not is_run_name("other@step-2")


def test_runs_show_their_checkpoints_and_a_shell_completes_them(kept):
    kept()
    status, out, err = cli("runs", "mine")
    assert status == 0 and "checkpoints mine@step-1, mine@step-2, mine@step-3" in out
    assert model_names("mi") == ["mine"]
    assert model_names("mine@") == ["mine@last", "mine@step-1", "mine@step-2", "mine@step-3"]
    assert model_names("mine@step-3") == ["mine@step-3"] and model_names("other@") == []
