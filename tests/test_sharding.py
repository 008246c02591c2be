"""Sharded over two processes, a run computes what one process computes."""

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import (
    assert_same_runs,
    data_for,
    differences,
    float32_flags,
    losses,
    together,
    torchrun,
    trainer,
    two_processes,
    write_rows,
)
from tiny_runs import demonstrations as rows_of_demonstrations

from zoo.errors import ZooError
from zoo.libraries import heads, sharding, turns
from zoo.libraries.tiny import make_tiny
from zoo.models.scoring import score_answers
from zoo.processes import begin_exchange
from zoo.rollout.writer import Writer
from zoo.runs import Run
from zoo.testing.tiny import tiny_rows
from zoo.training.record.checkpoints import FolderCheckpoints, verify
from zoo.values.types import Answer

OPTIONS = {"lr": 1e-3, "optimizer": "adamw(eps=1e-5)", "epochs": 1, "accelerator": "cpu", "micro_tokens": 60}
"""Micro-batches so small that the processes have different numbers of them."""


@pytest.fixture
def both(tmp_path, tiny_folder, monkeypatch):
    """`both(algo, **options)`: the run of one process, and of two that share out the model."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))

    def run(algo, rows=10, kind=None, **options):
        data = options.pop("data", None) or data_for(kind or algo, tmp_path, rows)
        single = trainer(tmp_path, tiny_folder)(algo, data=data, **{**OPTIONS, **options})
        return single, sharded(algo, data, **options)

    def sharded(algo, data, devices=2, **options):
        model = options.pop("model", tiny_folder)
        flags = float32_flags(**OPTIONS | options, out=tmp_path / "two", strategy="fsdp", devices=2)
        flags = [part for part in flags if part != "True"]
        typed = ("train", "--algo", algo, "--model", str(model), "--data", data, *flags)
        for done in two_processes(*typed, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two")):
            assert done.returncode == 0, done.stdout + done.stderr
        return Run(max((tmp_path / "two").iterdir(), key=lambda path: path.stat().st_mtime))

    return run


def test_two_processes_that_share_out_the_model_give_what_one_gives(both, tmp_path):
    held_out = write_rows(tmp_path / "held.jsonl", rows_of_demonstrations(5, seed=9))
    assert_same_runs(*both("sft", eval_data=held_out))


@pytest.mark.long
def test_a_frozen_model_is_shared_out_too(both):
    """Its scores are in the cache of one process, and missing in the other's."""
    first, second = both("dpo", epochs=2)
    assert_same_runs(first, second)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora_kind": "dora+rslora", "lora_plus": 16.0},
        {"train_modules": "lm_head,down_proj,norm"},
        {"lora_kind": "pissa"},
    ],
    ids=str,
)
def test_adapters_and_their_base_are_shared_out(both, options):
    first, second = both("dpo", lora=True, lr=1e-2, **options)
    assert losses(first) == pytest.approx(losses(second), rel=1e-5)


@pytest.mark.long
def test_adapters_that_go_on_are_shared_out_with_the_copy_of_their_start(both, tmp_path, tiny_folder):
    start = trainer(tmp_path, tiny_folder)("sft", data=data_for("sft", tmp_path), lora=True, lora_rank=4, lr=1e-2)
    first, second = both("dpo", model=str(start.path), lora=True, lora_continue=True, lr=1e-2, reference_cache="off")
    assert losses(first) == pytest.approx(losses(second), rel=1e-5) and losses(first)[0] == pytest.approx(
        math.log(2), abs=1e-5
    )


@pytest.mark.long
@pytest.mark.parametrize(("algo", "kind"), [("kto", "feedback"), ("rm", "preference")])
def test_processes_with_unequal_numbers_of_passes_wait_for_each_other(both, tmp_path, algo, kind):
    """Of uneven answers one process makes more parts than the other, of the reference's scores and of each step."""
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows(kind, 10))
    first, second = both(algo, data=data)
    assert differences(first, second) < 1e-5 and losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)


ROLLOUTS = {
    "reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "max_new_tokens": 6, "max_steps": 4,
    "minibatches": 1, "rollout_epochs": 1,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("algo", "options"),
    [("ppo", {}), ("ppo", {"critic": "own"}), ("grpo", {"beta": 0.1, "reference_every": 2})],
    ids=str,
)
def test_rollouts_are_written_in_step(both, tmp_path, algo, options):
    """Answers end at different times; a former policy is scored by one process while the other writes with today's."""
    data = write_rows(tmp_path / "prompts.jsonl", tiny_rows("prompt", 10))
    first, second = both(algo, data=data, **ROLLOUTS, **options)
    assert differences(first, second) < 1e-5 and losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)
    assert [row.get("rollout/length") for row in first.log_history] == [
        row.get("rollout/length") for row in second.log_history
    ]


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"lora": True, "lr": 1e-2}], ids=str)
def test_a_role_is_renewed_again_and_again(both, tmp_path, options):
    """Its second and later weights are scored, and write answers, as its first ones."""
    data = write_rows(tmp_path / "rows.jsonl", rows_of_demonstrations(10))
    how = {**ROLLOUTS, "max_steps": 5, "epochs": 3, **options}
    del how["reward"]
    first, second = both("spin", data=data, **how)
    assert [row["iteration"] for row in first.log_history] == [0, 1, 2, 3, 4]
    assert losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)
    for a, b in zip(first.log_history, second.log_history, strict=True):
        assert a["logps/generated"] == pytest.approx(b["logps/generated"], rel=1e-4)
        assert a["rewards/real"] == pytest.approx(b["rewards/real"], abs=1e-4)


KILLED = """
import os
import signal
import time
from pathlib import Path

from zoo_plugins.sft import SFT


class Killed(SFT):
    '''Is killed in its third step, once the checkpoint before it is complete, where it is told so.'''

    def loss(self, batch, models, config, step):
        if models.training and step == 2 and "KILL" in os.environ:
            while not Path("runs/broken/checkpoints/step-2/manifest.json").is_file():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, models, config)
"""
OTHERS = {
    "1": ["--devices", "1"],
    "4": ["--devices", "4"],
    "2 with ddp": ["--strategy", "ddp"],
    "1 alone": ["--devices", "1", "--strategy", "auto"],
    "2 in a tensor group": ["--strategy", "auto", "--tensor-parallel", "2"],
}
"""What is typed to go on with other processes, by their number."""


@pytest.mark.long
def test_a_run_goes_on_with_other_processes(tmp_path, tiny_folder):
    (tmp_path / "killed.py").write_text(KILLED)
    flags = float32_flags(**OPTIONS, save_every=2, out=tmp_path / "runs", strategy="fsdp", devices=2)
    data = data_for("sft", tmp_path, 16)
    typed = ["train", "--algo", "./killed.py:Killed", "--model", str(tiny_folder), "--data", data, *flags]
    for done in two_processes(*typed, "--name", "whole", cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    two_processes(*typed, "--name", "broken", cwd=tmp_path, KILL="1")
    whole, broken = (Run(tmp_path / "runs" / name) for name in ("whole", "broken"))
    assert len(list(broken.checkpoints.glob("step-2/part-*-of-2.safetensors"))) == 2
    for number, (others, more) in enumerate(OTHERS.items()):
        run = Run(shutil.copytree(broken.path, tmp_path / f"copy-{number}"))
        goes_on(run, whole, int(others[0]), more)
    refused = together(("resume", broken.path), tmp_path, [torchrun(rank, 4) for rank in range(4)])[0]
    assert refused.returncode == 2 and "torchrun started 4 processes, but --devices 2" in refused.stderr
    assert "--devices is the number of processes on each machine" in refused.stderr


def goes_on(run, whole, processes, more):
    places = [torchrun(rank, processes) for rank in range(processes)] if processes > 1 else [{"LOCAL_RANK": "0"}]
    for rank, done in enumerate(together(("resume", run.path, *more), run.path.parent, places)):
        assert done.returncode == 0, done.stdout + done.stderr
        if rank == 0:
            assert "Resuming from step-2." in done.stdout and "the result may differ" in done.stdout
    assert differences(run, whole) < 1e-5 and losses(run) == pytest.approx(losses(whole), rel=1e-5)
    former = {change["name"] for change in run.read_json("fingerprints.json")["changes"]}
    assert former == {flag.strip("-").replace("-", "_") for flag in more[::2]}


# -- without processes -----------------------------------------------------------------------------------------------


def whole_weights(model):
    gathering = sharding.weights_to_gather(model)
    return gathering.at_once(gathering.like)


def test_weights_are_gathered_and_the_optimizer_state_is_written_in_parts(alone, tmp_path):
    model = sharding.shard(make_tiny())
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights, state = whole_weights(model), sharding.optimizer_state(optimizer)
    assert not any(map(sharding.is_part, weights.values())) and all(map(sharding.is_part, model.parameters()))
    named = {name: sharding.part_of(p) for name, p in model.named_parameters()}
    writer = FolderCheckpoints(in_parts=True)
    writer.save_checkpoint({"state_dict": named, "optimizer_states": [state]}, tmp_path / "step-1")
    writer.settle()
    assert sorted(file.name for file in (tmp_path / "step-1").iterdir()) == [
        "manifest.json", "part-0-of-1.safetensors", "rest.pt",
    ]  # fmt: skip
    verify(tmp_path / "step-1")
    read = FolderCheckpoints().load_checkpoint(tmp_path / "step-1")
    assert all(torch.equal(read["state_dict"][name], weights[name]) for name in named)
    stored = writer.load_checkpoint(tmp_path / "step-1")
    other = sharding.shard(make_tiny())
    again = torch.optim.AdamW(other.parameters())
    sharding.fill(other, stored["state_dict"])
    sharding.load_optimizer_state(again, stored["optimizer_states"][0])
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), whole_weights(other).values(), strict=True))
    one, two = (sharding.optimizer_state(each)["state"] for each in (optimizer, again))
    assert all(torch.equal(one[n]["exp_avg"].values, two[n]["exp_avg"].values) for n in one)
    moments = read["optimizer_states"][0]["state"]
    assert all(torch.equal(one[n]["exp_avg"].values, moments[n]["exp_avg"]) and moments[n]["step"] == 1 for n in one)


def test_tensors_that_layers_share_are_gathered_once(alone):
    weights = whole_weights(sharding.shard(make_tiny(tie_word_embeddings=True)))
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]


def test_a_model_whose_blocks_have_no_name_is_refused(alone):
    model = make_tiny()
    model._no_split_modules = None
    with pytest.raises(sharding.ZooError, match="does not name its blocks"):
        sharding.shard(model)


def test_an_engine_elsewhere_is_refused(alone):
    writer = object.__new__(Writer)
    writer.engine = SimpleNamespace(remote=True)
    with pytest.raises(sharding.ZooError, match="cannot be given the weights of a model that is sharded"):
        writer.begin(0)


def test_a_head_is_measured_before_the_pass_that_uses_it(alone, monkeypatch):
    """Another process may make an idle pass meanwhile, which runs the backbone once."""
    model, entered = sharding.shard(make_tiny()), []
    measure = heads._measured
    monkeypatch.setattr(
        heads, "_measured", lambda base: (entered.append(turns._SHARED[base].entered), measure(base))[1]
    )
    score_answers(model, [Answer.of([1, 2], [3, 4])], "padded")
    assert entered == [False]


def test_without_a_mesh_nothing_is_shared_out():
    model = make_tiny()
    assert sharding.shard(model) is model and not any(map(sharding.is_part, model.parameters()))
    begin_exchange()


def test_a_torch_that_is_too_old_is_refused_in_words(monkeypatch):
    monkeypatch.delattr(sharding.FSDPModule, "set_reduce_scatter_unused_params")
    with pytest.raises(ZooError, match="needs a newer torch than") as refused:
        sharding.make_mesh(torch.device("cpu"), 2)
    assert "pip install" in refused.value.hint
