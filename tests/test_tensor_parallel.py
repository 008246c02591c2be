"""Layers that are cut among two processes compute what whole ones do: outputs, gradients, and whole runs."""

import copy
import json
import os
import shutil
import signal
import socket
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import (
    FLOAT32,
    assert_same_runs,
    cli,
    data_for,
    differences,
    float32_flags,
    forked,
    losses,
    same_bytes,
    status_of,
    trainer,
    two_processes,
    write_rows,
)

from zoo.errors import ZooError
from zoo.libraries import sharding, tensor_parallel
from zoo.libraries.adapters import wrap
from zoo.libraries.architecture import last_hidden
from zoo.libraries.reliance import require
from zoo.libraries.scattered import tensors_in
from zoo.libraries.tiny import IDS, make_tiny
from zoo.options.checks import check_values
from zoo.options.config import TrainConfig
from zoo.runs import Run
from zoo.testing.processes import Order, make
from zoo.testing.tiny import tiny_rows

MODELS = {
    "Llama": {"attention_bias": True, "mlp_bias": True}, "Qwen3": {}, "Gemma2": {}, "Olmo2": {}, "Phi3": {},
    "GPTNeoX": {},
}  # fmt: skip
"""Biases, norms of heads, two norms a block, heads that are gathered, one matrix for several products."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def gradients(model):
    """Hidden states, and the whole gradient of each trained parameter, by name."""
    hidden = last_hidden(model, input_ids=IDS)
    (hidden * torch.linspace(-1, 1, hidden.shape[-1])).square().sum().backward()
    sharding.complete_gradients(model.parameters())
    dims = sharding.cut_dims()
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    return hidden.detach(), {name: sharding.whole(p.grad, dims.get(id(p))) for name, p in trained.items()}


def gaps(name, lora):
    """The largest differences between a whole model and a cut one, of hidden states and of gradients, relatively."""
    model = make_tiny(name, num_key_value_heads=2, **MODELS[name])
    if lora:
        model = wrap(model, rank=2, alpha=2.0, dropout=0.0, targets="all-linear")
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.1)
    whole = copy.deepcopy(model)
    tensor_parallel.cut(model)
    assert model.get_input_embeddings().weight.shape == whole.get_input_embeddings().weight.shape
    assert sum(p.numel() for p in model.parameters()) < 0.8 * sum(p.numel() for p in whole.parameters())
    (two, second), (one, first) = gradients(model), gradients(whole)
    assert first.keys() == second.keys()
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    return float((one - two).abs().max() / one.abs().max()), max(
        float((first[key] - second[key]).abs().max()) / largest for key in first
    )


def shares():
    """The share of an embedding, and of a matrix in a block, that this process holds of a model that is sharded too."""
    model, whole = (make_tiny(num_key_value_heads=2) for _ in range(2))
    sharding.shard(model)
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    return [sharding.own_part(model.get_parameter(n)).numel() / whole.get_parameter(n).numel() for n in names]


def in_a_process(rank, port, folder):
    status = 1
    try:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        sharding.make_mesh(torch.device("cpu"), 2, 2, fsdp=False)
        found = {f"{name} {lora}": gaps(name, lora) for name in MODELS for lora in (False, True)}
        sharding.make_mesh(torch.device("cpu"), 2, 2, fsdp=True)
        found["shares"] = shares()
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def test_outputs_and_gradients_of_cut_models_are_those_of_whole_ones(tmp_path):
    require("peft")
    port, children = free_port(), []
    for rank in (0, 1):
        if not (child := os.fork()):
            in_a_process(rank, port, tmp_path)
        children.append(child)
    assert [status_of(child, 120) for child in children] == [0, 0]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.pop("shares") == [0.5, 0.5] and len(found) == 2 * len(MODELS)
        for name, (hidden, gradient) in found.items():
            assert hidden < 1e-5 and gradient < 1e-5, f"{name}: {hidden}, {gradient}"


# -- runs ------------------------------------------------------------------------------------------------------------

OPTIONS = {"lr": 1e-3, "optimizer": "adamw(eps=1e-5)", "epochs": 1, "accelerator": "cpu", "micro_tokens": 60}
ROLLOUTS = {
    "reward": "zoo.testing.tiny:tiny_reward", "answers_per_prompt": 2, "max_new_tokens": 6, "max_steps": 4,
    "minibatches": 1, "rollout_epochs": 1,
}  # fmt: skip


@pytest.fixture
def both(tmp_path, tiny_folder, monkeypatch):
    """`both(algo, **options)`: the run of one process, and that of a tensor group of two."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache-one"))

    def run(algo, kind=None, cluster=None, **options):
        data = write_rows(tmp_path / "rows.jsonl", tiny_rows(kind, 10)) if kind else data_for(algo, tmp_path, 10)
        alone = trainer(tmp_path, tiny_folder)(algo, data=data, **{**OPTIONS, **options})
        return alone, cut(algo, data=data, **options, **cluster or {})

    def cut(algo, processes=2, **options):
        """In fresh processes: a fork of this one has what former runs left."""
        given = {**FLOAT32, "batch_size": 4, "model": str(tiny_folder), **OPTIONS, **options}
        group = {"tensor_parallel": 2, "devices": processes}
        return make(Order(algo, {**given, **group}, tmp_path, "two", processes)).run

    return run


def test_a_run_of_a_tensor_group_gives_what_one_process_gives(both):
    assert_same_runs(*both("sft"))


@pytest.mark.long
def test_a_reference_is_cut_and_its_scores_are_kept(both):
    assert_same_runs(*both("dpo", epochs=2))


@pytest.mark.long
@pytest.mark.parametrize("whole", ["", "lm_head,down_proj,k_proj,norm"])
def test_adapters_are_cut_with_their_layers_and_written_whole(both, whole):
    first, second = both("dpo", lora=True, train_modules=whole)
    assert losses(first) == pytest.approx(losses(second), rel=1e-5)
    one, two = (load_file(run.model_path / "adapter_model.safetensors") for run in (first, second))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.long
@pytest.mark.parametrize(("algo", "kind"), [("rm", "preference"), ("kto", "feedback")])
def test_heads_are_the_same_in_all_processes(both, algo, kind):
    first, second = both(algo, kind)
    assert differences(first, second) < 1e-5 and losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("algo", "options"),
    [("ppo", {}), ("ppo", {"critic": "own"}), ("grpo", {"beta": 0.1, "reference_every": 2})],
    ids=str,
)
def test_a_tensor_group_writes_the_same_answers(both, algo, options):
    first, second = both(algo, "prompt", **ROLLOUTS, **options)
    assert differences(first, second) < 1e-5 and losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)
    assert [row.get("rollout/length") for row in first.log_history] == [
        row.get("rollout/length") for row in second.log_history
    ]


@pytest.mark.long
@pytest.mark.parametrize(("algo", "kind", "options"), [("dpo", "preference", {}), ("ppo", "prompt", ROLLOUTS)])
def test_tensor_groups_share_out_their_parts(both, algo, kind, options):
    kept = {"save_every": 1, "keep_checkpoints": True}
    first, second = both(algo, kind, {"processes": 4, "strategy": "fsdp"}, **options, **kept)
    assert differences(first, second) < 1e-5 and losses(first) == pytest.approx(losses(second), rel=1e-4, abs=1e-5)
    last, same = (max(run.checkpoints.iterdir()) for run in (first, second))
    one, two = tensors_in(last), tensors_in(same)
    weights = [name for name in one if name.startswith("state_dict/")]
    assert weights and all(torch.allclose(one[name].read(), two[name].read(), atol=1e-5) for name in weights)
    assert last.name == same.name and len(list(same.glob("part-*-of-4.safetensors"))) == 4


NOISY = """
import hashlib
import os
import signal
from pathlib import Path

import torch
from zoo_plugins.sft import SFT


class Noisy(SFT):
    '''Writes down what it is about to draw from, and is killed in its third step where it is told so.'''

    def loss(self, batch, models, config, step):
        if models.training:
            state = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
            with Path(f"drawn-{os.environ['LOCAL_RANK']}.txt").open("a") as stream:
                stream.write(state + "\\n")
            if step == 2 and "KILL" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, models, config)
"""


def test_a_group_draws_the_same_numbers_and_goes_on_to_the_last_bit(tmp_path, tiny_folder):
    (tmp_path / "noisy.py").write_text(NOISY)
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows("demonstration", 12))
    options = {
        **OPTIONS,
        "neftune_alpha": 50,
        "save_every": 2,
        "tensor_parallel": 2,
        "devices": 2,
        "out": tmp_path / "two",
    }
    typed = [
        "train",
        "--algo",
        "./noisy.py:Noisy",
        "--model",
        str(tiny_folder),
        "--data",
        data,
        *float32_flags(**options),
    ]
    for done in two_processes(*typed, "--name", "whole", cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / f"drawn-{rank}.txt").read_text().split() for rank in (0, 1))
    assert first == second and len(set(first)) == len(first)
    killed = two_processes(*typed, "--name", "broken", cwd=tmp_path, KILL="1")
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 2
    whole, broken = (Run(tmp_path / "two" / name) for name in ("whole", "broken"))
    alone = Run(shutil.copytree(broken.path, tmp_path / "alone"))
    for done in two_processes("resume", broken.path, cwd=tmp_path):
        assert done.returncode == 0, done.stdout + done.stderr
    assert same_bytes(broken, whole, "metrics.jsonl")
    weights = "model/model.safetensors"
    assert (broken.path / weights).read_bytes() == (whole.path / weights).read_bytes()
    goes_on_alone(alone, whole)


def goes_on_alone(run, whole):
    """One process goes on from the checkpoint of two; it draws the noise of the group."""
    file = run.path / "run.yaml"
    options = file.read_text()
    assert "devices: 2" in options and "tensor_parallel: 2" in options
    file.write_text(options.replace("devices: 2", "devices: 1").replace("tensor_parallel: 2", "tensor_parallel: 1"))
    (done,) = forked((("resume", run.path), {"LOCAL_RANK": "0"}), cwd=run.path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert differences(run, whole) < 1e-5 and losses(run) == pytest.approx(losses(whole), rel=1e-5)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "size", "words"),
    [
        ("Llama", {}, 2, "the 1 key-value heads of llama cannot be divided by 2"),
        ("Llama", {"num_key_value_heads": 2}, 3, "the 2 attention heads of llama cannot be divided by 3"),
        ("Llama", {"num_key_value_heads": 2, "intermediate_size": 15}, 2, "the 15 values between"),
        ("Mixtral", {"num_local_experts": 4}, 2, "the plan of mixtral has"),
        ("StableLm", {}, 2, "no plan for how stablelm is cut"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(name, options, size, words):
    with pytest.raises(ZooError, match=words):
        tensor_parallel.refuse_uncuttable(make_tiny(name, **options).config, size)


def test_a_model_that_can_be_cut_is_not_refused():
    tensor_parallel.refuse_uncuttable(make_tiny(num_key_value_heads=2).config, 2)


def test_a_dry_run_refuses_a_model_that_cannot_be_cut(tmp_path, tiny_folder):
    data = data_for("sft", tmp_path, 8)
    typed = ("train", "--algo", "sft", "--model", tiny_folder, "--data", data, "--dry-run", "--tensor-parallel", "4")
    status, _, err = cli(*typed, "--devices", "4", "--batch-size", "4")
    assert status == 2 and "the 2 key-value heads of llama cannot be divided by 4" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 3}, "does not divide the 3 processes of --devices"),
        ({"devices": 3, "num_nodes": 2}, "does not divide the 3 processes of a machine"),
        ({"devices": 4}, "shares out the weights among the groups"),
        ({"devices": 2, "strategy": "ddp"}, "Leave out --strategy ddp."),
        ({"devices": 2, "optimizer": "muon"}, "looks at whole matrices"),
        ({"devices": 2, "lora": True, "quantize": "nf4"}, "cannot be cut"),
        ({"devices": 2, "lora": True, "lora_kind": "dora"}, "reads whole matrices"),
    ],
)
def test_options_that_do_not_fit_a_tensor_group_are_refused(options, words):
    with pytest.raises(ZooError) as refused:
        check_values(TrainConfig(tensor_parallel=2, **options), {})
    assert words in str(refused.value.message) + str(refused.value.hint)


def test_a_part_of_a_group_needs_no_row_of_its_own():
    check_values(TrainConfig(tensor_parallel=2, devices=2, batch_size=1), {})
