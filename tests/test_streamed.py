"""Weights that are shared out are written one tensor after the other, into the files of a model that is whole."""

import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.libraries import sharding
from zoo.libraries.adapters import wrap
from zoo.libraries.pretrained import load, save
from zoo.libraries.reliance import require
from zoo.libraries.scattered import read_parts
from zoo.libraries.streamed import TYPES, order_of, write
from zoo.libraries.tiny import make_tiny
from zoo.training.record.callbacks import save_best

MODELS = {
    "Llama": {}, "Llama tied": {"tie_word_embeddings": True}, "Phi3": {}, "GPTNeoX": {}, "Gemma2": {},
    "Mixtral": {"num_local_experts": 4},
}  # fmt: skip
CHANGED = ("Mixtral",)
"""Of these the library writes other tensors than the model has."""


def tiny(name):
    return make_tiny(name.split()[0], **MODELS[name])


def assert_same_folders(one, two):
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in two.iterdir())
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_is_that_of_the_library_to_the_byte(tmp_path, metadata):
    tensors = {str(dtype): torch.tensor([[0, 1, 1]]).to(dtype) for dtype in TYPES}
    tensors |= {"é": torch.tensor(3.0), "b.10": torch.randn(3, 5), "b.2": torch.randn(4), "none": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "one", metadata)
    write(tmp_path / "two", tensors, (tensors[name] for name in order_of(tensors)), metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_shared_out_is_written_as_a_whole_one(alone, tmp_path, name, dtype, monkeypatch):
    save(tiny(name).to(dtype), tmp_path / "start")
    whole, shared = (load("AutoModelForCausalLM", tmp_path / "start", dtype=dtype) for _ in range(2))
    save(whole, tmp_path / "one")
    numbers = counted(monkeypatch)
    save(sharding.shard(shared), tmp_path / "two", sharding.weights_to_gather(shared))
    assert_same_folders(tmp_path / "one", tmp_path / "two")
    assert name in CHANGED or max(numbers) <= 1


def test_of_adapters_nothing_else_is_gathered(alone, tmp_path, monkeypatch):
    require("peft")
    model = wrap(make_tiny(), rank=2, alpha=2.0, dropout=0.0, targets="all-linear")
    save(copy.deepcopy(model), tmp_path / "one")
    shared, gathered = sharding.shard(model), counted(monkeypatch)
    save(shared, tmp_path / "two", sharding.weights_to_gather(shared))
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert len(gathered) == sum(p.requires_grad for p in model.parameters())


def counted(monkeypatch):
    """How many whole tensors there were each time when another one was gathered."""
    there: list[weakref.ref[Tensor]] = []
    numbers, whole = [], sharding.whole

    def gather(tensor, dim):
        numbers.append(sum(made() is not None for made in there))
        there.append(weakref.ref(made := whole(tensor, dim)))
        return made

    monkeypatch.setattr(sharding, "whole", gather)
    return numbers


def test_one_tensor_is_there_at_a_time(alone, tmp_path, monkeypatch):
    shared = sharding.shard(make_tiny())
    numbers = counted(monkeypatch)
    save(shared, tmp_path / "model", sharding.weights_to_gather(shared))
    save_best(SimpleNamespace(policy=shared), tmp_path / "best.safetensors")
    assert len(numbers) == 2 * len(list(shared.parameters())) and max(numbers) <= 1


@pytest.mark.parametrize("shares", [False, True])
def test_the_best_weights_are_the_file_that_the_library_writes(alone, tmp_path, shares):
    model, other = tiny("Llama tied"), tiny("Llama tied")
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(trained, tmp_path / "one")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    model, other = (sharding.shard(of) if shares else of for of in (model, other))
    save_best(SimpleNamespace(policy=model), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    sharding.fill(other, read_parts([tmp_path / "two"]))
    assert all(torch.equal(sharding.own_part(p), trained[name]) for name, p in other.named_parameters())
