"""Steps that train some of the roles: the others, and what the optimizer keeps of them, stay as they are."""

import textwrap

import pytest
import torch
from safetensors.torch import load_file
from test_processes import only_run
from tiny_runs import differences, float32_flags, losses, trainer, two_processes, write_rows

from zoo.errors import PluginError
from zoo.testing.tiny import tiny_rows

TURNS = '''
    from zoo.api import Algorithm, Batch, Loss

    class Turns(Algorithm):
        """The policy in even steps, its critic in odd ones."""

        api_version = 2
        data = "prompt"
        needs = ("policy", "critic")
        metrics = {"error": "Squared error of the critic."}

        def rollout(self, prompts, models, score):
            answers = models.policy.generate(prompts)
            return Batch(answers=answers, reward=score(answers).nan_to_num())

        def loss(self, batch, models, step):
            mask = batch.answers.mask.to(batch.reward.device)
            if step % 2 == 0:
                logps = models.policy.logps(batch.answers).per_token
                return Loss.per_token(-batch.reward[:, None] * logps, mask, trains=("policy",))
            error = (models.critic.values(batch.answers) - batch.reward[:, None]) ** 2
            return Loss.per_token(error, mask, {"error": error}, trains=("critic",))
'''
OPTIONS = {
    "reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "batch_size": 4, "minibatches": 1, "lr": 1e-2,
    "schedule": "constant", "warmup": 0.0, "max_new_tokens": 6, "eval_fraction": 0.0, "score": "none",
}  # fmt: skip


def prompts(folder):
    return write_rows(folder / "prompts.jsonl", tiny_rows("prompt", 8))


@pytest.fixture
def turns(tmp_path):
    file = tmp_path / "turns.py"
    file.write_text(textwrap.dedent(TURNS), encoding="utf-8")
    return f"{file}:Turns"


@pytest.fixture
def train(tmp_path, tiny_folder):
    make = trainer(tmp_path, tiny_folder)
    return lambda algo, **options: make(algo, data=prompts(tmp_path), **options)


def weights_after(train, turns, steps, **options):
    run = train(turns, max_steps=steps, **{**OPTIONS, **options})
    return load_file(run.model_path / "model.safetensors"), run


@pytest.mark.parametrize("critic", ["head", "own"])
def test_a_step_of_the_critic_moves_no_weight_of_the_policy_nor_does_adams_momentum(critic, turns, train, tiny_folder):
    (first, _), (second, run), (third, _) = (weights_after(train, turns, n, critic=critic) for n in (1, 2, 3))
    start = load_file(tiny_folder / "model.safetensors")
    assert any(not torch.equal(start[name], first[name]) for name in start)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(second[name], third[name]) for name in first)
    policy, critics = run.log_history
    assert "grad_norm" in policy and "critic/grad_norm" not in policy
    assert critics["critic/grad_norm"] > 0 and "grad_norm" not in critics and critics["error"] > 0


def test_two_processes_train_the_same_roles_as_one(turns, train, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))
    options = {**OPTIONS, "optimizer": "adamw(eps=1e-3)", "temperature": 0}
    _, single = weights_after(train, turns, 3, critic="own", **options)
    flags = float32_flags(**options, critic="own", max_steps=3, devices=2, accelerator="cpu", out=tmp_path / "two")
    typed = ("--algo", turns, "--model", str(tiny_folder), "--data", prompts(tmp_path))
    for done in two_processes("train", *typed, *flags, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two")):
        assert done.returncode == 0, done.stdout + done.stderr
    both = only_run(tmp_path)
    assert differences(single, both) < 1e-5
    assert losses(single) == pytest.approx(losses(both), abs=1e-5, rel=1e-4)


def test_a_plugin_whose_critic_has_a_later_turn_is_told_how_its_first_step_says_that(train, tmp_path):
    source = textwrap.dedent(TURNS)
    (tmp_path / "silent.py").write_text(source.replace(', trains=("policy",)', "").replace(', trains=("critic",)', ""))
    with pytest.raises(PluginError, match="needs critic, but its first step used policy only") as caught:
        train(f"{tmp_path / 'silent.py'}:Turns", max_steps=2, **OPTIONS, critic="own")
    advice = 'If critic has its turn in a later step, let this one say what it moves: trains=("policy",).'
    assert advice in caught.value.hint
    (tmp_path / "saying.py").write_text(source.replace(', trains=("critic",)', ""))
    run = train(f"{tmp_path / 'saying.py'}:Turns", max_steps=2, **OPTIONS, critic="own")
    assert "grad_norm" not in run.log_history[1] and run.log_history[1]["critic/grad_norm"] > 0


SILENT = (
    TURNS.replace(', trains=("policy",)', "")
    .replace(', trains=("critic",)', "")
    .replace("mask = ", "models.critic\n            mask = ")
)
"""The same without a word about it, and both roles are touched in each step."""


def test_a_role_that_no_loss_reaches_stays_as_it_is_without_being_named(turns, train, tmp_path, tiny_folder):
    """DDP would wait for its gradients, and Adam's momentum move it."""
    silent = tmp_path / "silent.py"
    silent.write_text(textwrap.dedent(SILENT))
    options = {**OPTIONS, "critic": "own", "optimizer": "adamw(eps=1e-3)", "temperature": 0}
    _, named = weights_after(train, turns, 3, **options)
    _, alone = weights_after(train, f"{silent}:Turns", 3, **options)
    assert differences(named, alone) == 0 and losses(named) == losses(alone)
    flags = float32_flags(**options, max_steps=3, devices=2, accelerator="cpu", out=tmp_path / "two")
    typed = ("--algo", f"{silent}:Turns", "--model", str(tiny_folder), "--data", prompts(tmp_path))
    for done in two_processes("train", *typed, *flags, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two")):
        assert done.returncode == 0, done.stdout + done.stderr
    both = only_run(tmp_path)
    assert differences(named, both) < 1e-5 and losses(named) == pytest.approx(losses(both), abs=1e-5, rel=1e-4)


def test_micro_batches_that_differ_are_the_plugins_mistake(train, turns, tmp_path):
    file = tmp_path / "turns.py"
    counted = "self.calls = getattr(self, 'calls', 0) + 1\n        if self.calls % 2:"
    file.write_text(file.read_text().replace("if step % 2 == 0:", counted))
    with pytest.raises(PluginError, match="other roles as trains in one micro-batch"):
        weights_after(train, turns, 1, micro_tokens=8)
