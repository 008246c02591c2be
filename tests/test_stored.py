"""Matrices stay in their files until a model is shared out; then each process reads the part that it keeps."""

import json
import os
import traceback

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing._internal.distributed.fake_pg import FakeStore

from zoo.data.encoding.new_tokens import NewTokens
from zoo.libraries import sharding, stored
from zoo.libraries.adapters import frozen_parameters
from zoo.libraries.pretrained import load, save
from zoo.libraries.reliance import require
from zoo.libraries.tiny import IDS, make_tiny
from zoo.models import reference_cache
from zoo.models.names import Source
from zoo.models.precision import round_frozen
from zoo.models.reference_cache import fingerprint
from zoo.models.start import load_policy
from zoo.options.config import TrainConfig

KINDS = {
    "Llama": {},
    "Llama tied": {"tie_word_embeddings": True},
    "Qwen2": {},
    "Gemma2": {},
    "Phi3": {},
    "GPTNeoX": {},
    "StableLm": {},
}


def folder_of(kind, place, dtype=torch.float32, **options):
    folder = place / kind.replace(" ", "-")
    save(make_tiny(kind.split()[0], **KINDS.get(kind, {}), **options).to(dtype), folder)
    return folder


def loaded(folder, dtype=torch.float32):
    return stored.load_stored(lambda: load("AutoModelForCausalLM", folder, dtype=dtype))


@pytest.fixture
def one_of_three(tmp_path):
    """`one_of_three(rank, work)`: what work gives in a fork, as one of three processes of which no other is there."""

    # A process that is not the first one of several writes no files, so that nothing can be checked there.
    require("transformers")

    def run(rank, work):
        file = tmp_path / f"{rank}.pt"
        if not (child := os.fork()):
            status = 1
            try:
                torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=3)
                sharding.make_mesh(torch.device("cpu"), 3)
                torch.save(work(), file)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        return torch.load(file)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_all_processes_are_the_weights_of_the_file(kind, tmp_path, one_of_three):
    folder = folder_of(kind, tmp_path)

    def parts():
        model = loaded(folder)
        assert all(p.device.type == "meta" for p in model.parameters() if p.ndim > 1)
        return {name: sharding.own_part(p).detach() for name, p in sharding.shard(model).named_parameters()}

    ranks = [one_of_three(rank, parts) for rank in range(3)]
    for name, weight in load("AutoModelForCausalLM", folder, dtype=torch.float32).named_parameters():
        assert torch.equal(torch.cat([of[name] for of in ranks]), weight), name


def test_no_process_reads_more_of_a_matrix_than_its_part(tmp_path, one_of_three, monkeypatch):
    folder = folder_of("Llama", tmp_path)
    sizes, read = [], stored.Place.read
    monkeypatch.setattr(stored.Place, "read", lambda *given: sizes.append(read(*given).shape) or read(*given))

    def work():
        model = sharding.shard(loaded(folder))
        return {"read": sizes, "whole": [p.shape for p in model.parameters() if p.ndim > 1]}

    told = one_of_three(0, work)
    assert len(told["read"]) == 16 and not {*told["whole"]} & {*told["read"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored_as", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_model_that_was_shared_out_has_the_weights_of_one_that_was_not(alone, tmp_path, kind, stored_as, precision):
    source = Source("it", folder_of(kind, tmp_path, stored_as))
    ways = [load_policy(TrainConfig(accelerator="cpu"), source, precision, in_files=later) for later in (True, False)]
    assert stored.is_stored(ways[0]) and not stored.is_stored(ways[1])
    assert_same(sharding.shard(ways[0]), ways[1])


def assert_same(one, other):
    """Weights of a model that was shared out, and buffers, those of another."""
    gathering, wanted = sharding.weights_to_gather(one), other.state_dict()
    weights = gathering.at_once(gathering.like)
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        assert weights[name].dtype == value.dtype and torch.equal(weights[name], value), name
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_shared_matrices_stay_shared(alone, tmp_path):
    model = sharding.shard(loaded(folder_of("Llama tied", tmp_path)))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "embed_tokens"]], ids=str)
def test_adapters_begin_as_on_a_model_that_was_read_at_once(alone, tmp_path, precision, targets):
    source = Source("it", folder_of("Llama", tmp_path))
    core = TrainConfig(accelerator="cpu", lora=True, lora_rank=2, lora_targets=targets)
    models = []
    for later in (True, False):
        torch.manual_seed(3)
        models.append(load_policy(core, source, precision, in_files=later))
    drawn = [value for name, value in models[0].named_parameters() if "lora_A" in name]
    assert drawn and all(value.abs().sum() > 0 for value in drawn)
    key = fingerprint(frozen_parameters(models[1]))
    assert fingerprint(stored.initial_values(models[0], frozen_parameters(models[0]))) == key
    sharding.shard(models[0])
    assert fingerprint(stored.initial_values(models[0], frozen_parameters(models[0]))) == key
    assert_same(models[0], models[1])


def test_the_cache_of_a_sharded_model_is_found_by_its_files(alone, tmp_path, monkeypatch):
    """Under the key that a single process gives it; no matrix is gathered for that."""
    folder = folder_of("Llama tied", tmp_path)
    key = fingerprint(load("AutoModelForCausalLM", folder, dtype=torch.float32).named_parameters(), "32-true")
    model = sharding.shard(loaded(folder))
    gathered, whole = [], sharding.whole
    monkeypatch.setattr(
        reference_cache, "whole", lambda tensor, dim: gathered.append(sharding.is_part(tensor)) or whole(tensor, dim)
    )
    assert fingerprint(stored.initial_values(model, model.named_parameters()), "32-true") == key
    assert sum(gathered) == sum(p.ndim == 1 for p in model.parameters())


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("kind", ["Llama", "Llama tied"])
def test_new_tokens_get_the_same_rows(alone, tmp_path, kind, lora):
    source = Source("it", folder_of(kind, tmp_path))
    core = TrainConfig(accelerator="cpu", lora=lora, lora_rank=2)
    new = NewTokens(asked=(16, 17), added=(16, 17), known=16)
    models = []
    for later in (True, False):
        torch.manual_seed(3)
        models.append(load_policy(core, source, "32-true", new=new, in_files=later))
    assert_same(sharding.shard(models[0]), models[1])


def test_a_new_head_is_drawn_and_an_own_one_is_read(alone, tmp_path):
    source = Source("it", folder_of("Llama", tmp_path))
    models = [
        load_policy(TrainConfig(accelerator="cpu"), source, "32-true", "scalar", in_files=x) for x in (True, False)
    ]
    models[1].config.reward_scale = {"gain": 3.0, "bias": 1.0}
    save(models[1], tmp_path / "scorer")
    assert_same(sharding.shard(models[0]), models[1])
    scorer = Source("scorer", tmp_path / "scorer")
    again = [
        load_policy(TrainConfig(accelerator="cpu"), scorer, "32-true", "scalar", in_files=x) for x in (True, False)
    ]
    assert torch.equal(again[1].score.weight, 3 * models[1].score.weight)
    assert_same(sharding.shard(again[0]), again[1])


def test_a_frozen_model_is_rounded_in_its_parts(alone, tmp_path):
    folder = folder_of("Llama", tmp_path)
    one, other = (round_frozen(model.requires_grad_(False), "bf16-mixed") for model in (
        loaded(folder), load("AutoModelForCausalLM", folder, dtype=torch.float32)))  # fmt: skip
    assert any(p.dtype == torch.bfloat16 for p in other.parameters())
    assert_same(sharding.shard(one), other)


def test_weights_in_another_form_are_read_whole(tmp_path):
    """transformers stacks the experts of this architecture while it loads."""
    folder = folder_of("Mixtral", tmp_path, num_local_experts=4)
    torch.manual_seed(5)
    model = loaded(folder)
    assert not stored.is_stored(model) and stored.has_values(model)


def test_a_head_that_is_stored_beside_its_embedding_is_read_whole(tmp_path):
    """Both are one only if their values are equal."""
    folder = folder_of("Llama tied", tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "lm_head.weight": 2 * weights["model.embed_tokens.weight"]}, file, {"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    model = loaded(folder)
    assert not stored.is_stored(model) and not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_what_cannot_be_loaded_says_why(tmp_path):
    folder = folder_of("Llama", tmp_path)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Exception, match="[Hh]eader"):
        loaded(folder)


def test_zeros_stand_in_for_matrices_and_take_no_memory(tmp_path):
    model = loaded(folder_of("Llama", tmp_path))
    with stored.zeros(model), torch.no_grad():
        sizes = {p.untyped_storage().nbytes() for p in model.parameters() if p.ndim > 1}
        assert model(input_ids=IDS).logits.abs().sum() == 0
        model.requires_grad_(False)
    assert sizes == {4} and not stored.has_values(model)
    assert not any(p.requires_grad for p in model.parameters())
