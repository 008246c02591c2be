"""Checkpoints in parts: each process writes what it holds, and any number of processes reads its own from them."""

import json
import os
import traceback

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import TrainingStopped, ZooError
from zoo.libraries import sharding
from zoo.libraries.optimizers import adafactor
from zoo.libraries.scattered import Part, read_parts, tensors_in, weights_in, write_parts
from zoo.libraries.tensor_parallel import cut_dims
from zoo.libraries.tiny import make_tiny
from zoo.processes import from_all, my_rank
from zoo.training.record import checkpoints as module
from zoo.training.record.checkpoints import FolderCheckpoints, newest_good, verify, weight_shapes


@pytest.fixture
def together(tmp_path, monkeypatch):
    """`together(count, work)`: runs work in so many connected forks. mesh: further options of `make_mesh`."""
    monkeypatch.setattr(module, "IN_BACKGROUND", True)
    number = iter(range(100))

    def run(count, work, **mesh):
        meeting = f"file://{tmp_path}/meeting-{next(number)}"
        children = [os.fork() or _in_fork(meeting, rank, count, work, mesh) for rank in range(count)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * count

    return run


def _in_fork(meeting, rank, count, work, mesh):
    status = 1
    try:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
        sharding.make_mesh(torch.device("cpu"), count, **mesh)
        work()
        from_all(None)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def tiny():
    return make_tiny(tie_word_embeddings=True, num_key_value_heads=2)


def trained(seed=0):
    """A model that is shared out and its optimizer, after a step."""
    model = sharding.shard(tiny())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    torch.manual_seed(seed)
    dims = cut_dims()
    for parameter in model.parameters():
        dim = dims.get(id(parameter))
        whole = torch.randn(sharding.whole_shape(parameter, dim))
        parameter.grad = sharding.part_like(whole, parameter, dim)
    optimizer.step()
    return model, optimizer


def checkpoint_of(model, optimizer):
    named = [(f"policy.{name}", p) for name, p in model.named_parameters()]
    weights = sharding.parts_of([*named, ("critic.score", torch.arange(3.0))])
    return {"state_dict": weights, "optimizer_states": [sharding.optimizer_state(optimizer)], "zoo": {"a": 7}}


def save(folder, writer=None):
    writer = writer or FolderCheckpoints(in_parts=True)
    writer.save_checkpoint(checkpoint_of(*trained()), folder / "step-1")
    writer.settle()


def whole_of(model, optimizer):
    dims = [cut_dims().get(id(p)) for p in model.parameters()]
    named = zip(model.named_parameters(), dims, strict=True)
    states = optimizer.state_dict()["state"]
    moments = {number: sharding.whole(states[number]["exp_avg"], dim) for number, dim in enumerate(dims)}
    return {f"policy.{name}": sharding.whole(p, dim) for (name, p), dim in named}, moments


def goes_on_from(folder):
    """Holds this process's part of what was saved against what training gives, in each place that it is kept."""
    read = FolderCheckpoints().load_checkpoint(folder / "step-1")
    weights, moments = whole_of(*trained())
    model, optimizer = trained(seed=1)
    stored = FolderCheckpoints(in_parts=True).load_checkpoint(folder / "step-1")
    sharding.fill(model, {name.removeprefix("policy."): of for name, of in stored["state_dict"].items()})
    sharding.load_optimizer_state(optimizer, stored["optimizer_states"][0])
    mine, moved = whole_of(model, optimizer)
    assert all(torch.equal(mine[name], weights[name]) for name in weights)
    assert all(torch.equal(moved[number], moments[number]) for number in moments)
    assert all(torch.equal(read["state_dict"][name], weights[name]) for name in weights)
    states = read["optimizer_states"][0]["state"]
    assert all(torch.equal(states[number]["exp_avg"], moments[number]) for number in moments)
    assert torch.equal(stored["state_dict"]["critic.score"].read(), torch.arange(3.0)) and stored["zoo"] == {"a": 7}


def test_what_three_processes_wrote_one_two_and_four_read(together, tmp_path):
    folder = tmp_path / "checkpoints"
    together(3, lambda: save(folder))
    assert sorted(file.name for file in (folder / "step-1").iterdir()) == [
        "manifest.json", "part-0-of-3.safetensors", "part-1-of-3.safetensors", "part-2-of-3.safetensors", "rest.pt",
    ]  # fmt: skip
    assert newest_good(folder) == folder / "step-1"
    for count in (1, 2, 4):
        together(count, lambda: goes_on_from(folder))
    shapes = {f"policy.{name}": list(p.shape) for name, p in tiny().named_parameters()}
    assert weight_shapes(folder / "step-1") == {**shapes, "critic.score": [3]}


def step_with_adafactor(seed, divided=True):
    model = sharding.shard(tiny()) if divided else tiny()
    made = adafactor([{"params": list(model.parameters()), "lr": 0.1}], -0.8, 1.0)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = sharding.part_like(torch.randn(parameter.shape), parameter)
    made.step()
    return model, made


def reads_its_moments(folder):
    model, optimizer = step_with_adafactor(seed=0)
    alone, _ = step_with_adafactor(seed=0, divided=False)
    for part, parameter in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(sharding.whole(part), parameter.detach(), rtol=1e-5, atol=1e-6)
    writer = FolderCheckpoints(in_parts=True)
    writer.save_checkpoint(checkpoint_of(model, optimizer), folder / "step-1")
    writer.settle()
    from_all(None)
    _, other = step_with_adafactor(seed=1)
    stored = FolderCheckpoints(in_parts=True).load_checkpoint(folder / "step-1")
    sharding.load_optimizer_state(other, stored["optimizer_states"][0])
    for mine, read in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert mine.keys() == read.keys()
        tensors = [name for name in mine if torch.is_tensor(mine[name])]
        assert all(torch.equal(sharding.whole(mine[name]), sharding.whole(read[name])) for name in tensors)
        assert (mine["step"], mine["RMS"]) == (read["step"], read["RMS"]) == (1, 0)


def test_moments_of_rows_and_columns_are_written_and_read(together, tmp_path):
    together(2, lambda: reads_its_moments(tmp_path))


@pytest.mark.parametrize(("count", "fsdp"), [(2, False), (4, True)])
def test_parts_of_layers_that_are_cut_are_read_by_others(together, tmp_path, count, fsdp):
    together(count, lambda: save(tmp_path), tensor_parallel=2, fsdp=fsdp)
    together(2, lambda: goes_on_from(tmp_path))
    together(2, lambda: goes_on_from(tmp_path), tensor_parallel=2, fsdp=False)
    together(4, lambda: goes_on_from(tmp_path), tensor_parallel=2)


def test_no_process_writes_or_reads_more_than_its_part(together, tmp_path):
    together(2, lambda: save(tmp_path))
    sizes = [file.stat().st_size for file in sorted((tmp_path / "step-1").glob("part-*"))]
    whole = sum(4 * p.numel() for p in tiny().parameters())
    # Weights and two moments of them, and the headers.
    assert all(size < 0.55 * 3 * whole + 10_000 for size in sizes)
    part = weights_in(tmp_path / "step-1")["policy.model.embed_tokens.weight"]
    assert [piece.offset for piece in part.pieces] == [(0, 0), (8, 0)]
    assert torch.equal(part.read(slice(6, 10), slice(0, 16)), part.read()[6:10])


def test_a_part_that_is_damaged_or_missing_is_noticed(together, tmp_path):
    together(2, lambda: save(tmp_path))
    file = tmp_path / "step-1" / "part-1-of-2.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ZooError, match=r"part-1-of-2.safetensors is damaged"):
        verify(tmp_path / "step-1")
    file.unlink()
    with pytest.raises(ZooError, match=r"part-1-of-2.safetensors is missing"):
        verify(tmp_path / "step-1")
    with pytest.raises(ZooError, match="is in none of the files"):
        weights_in(tmp_path / "step-1")["policy.model.embed_tokens.weight"].read()


def test_a_process_that_cannot_write_its_part_leaves_no_checkpoint(together, tmp_path):
    def work():
        if my_rank()[0] == 1:
            module.write_parts = lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        with pytest.raises(TrainingStopped, match="could not be written"):
            save(tmp_path)

    together(2, work)
    assert not list(tmp_path.glob("step-*")) and not list(tmp_path.glob(".tmp-step-*/part-0*"))


def test_the_part_of_a_process_that_is_gone_is_not_waited_for(together, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LAST_PARTS", 0.2)

    def work():
        writer = FolderCheckpoints(in_parts=True)
        if my_rank()[0] == 1:
            writer._work = lambda *given: None
            save(tmp_path, writer)
            return
        writer.save_checkpoint(checkpoint_of(*trained()), tmp_path / "step-1")
        writer.lose_others()
        with pytest.raises(TrainingStopped, match="another process has ended before its part was written"):
            writer.settle()

    together(2, work)
    assert not list(tmp_path.glob("step-*"))


def test_checkpoints_of_whole_weights_are_read_in_parts_too(tmp_path):
    weights = {"policy.a": torch.arange(12.0).reshape(4, 3), "policy.b": torch.ones(2, dtype=torch.bfloat16)}
    writer = FolderCheckpoints()
    writer.save_checkpoint({"state_dict": weights, "optimizer_states": []}, tmp_path / "step-1")
    writer.settle()
    stored = FolderCheckpoints(in_parts=True).load_checkpoint(tmp_path / "step-1")["state_dict"]
    assert torch.equal(stored["policy.a"].read(slice(1, 3), slice(0, 2)), weights["policy.a"][1:3, :2])
    assert stored["policy.b"].read().dtype == torch.bfloat16 and stored["policy.b"].shape == (2,)


def test_parts_that_several_processes_hold_count_once(tmp_path):
    """As the norms of a model that is cut and shared out."""
    half = torch.arange(4.0)
    for number in range(2):
        write_parts({"a": Part(half, (0,), (4,))}, tmp_path / f"part-{number}-of-2.safetensors")
    stored = tensors_in(tmp_path)["a"]
    assert len(stored.pieces) == 1 and torch.equal(stored.read(), half)


def test_a_tensor_without_values_comes_back(tmp_path):
    write_parts({"a": Part(torch.zeros(0, 3), (0, 0), (0, 3))}, tmp_path / "part-0-of-1.safetensors")
    assert read_parts([tmp_path / "part-0-of-1.safetensors"])["a"].read().shape == (0, 3)


def test_the_header_says_where_parts_belong(tmp_path):
    file = tmp_path / "part-0-of-1.safetensors"
    write_parts({"a": Part(torch.ones(2, 3), (4, 0), (8, 3))}, file)
    assert read_parts([file])["a"].pieces[0].offset == (4, 0) and list(load_file(file)) == ["a"]
    save_file({"a": torch.ones(2, 3)}, file, {"where": json.dumps({"a": "somewhere"})})
    with pytest.raises(ValueError):
        read_parts([file])
