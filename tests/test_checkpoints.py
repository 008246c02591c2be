"""Checkpoints are complete or not there, and what is damaged is noticed."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import TrainingStopped, ZooError
from zoo.training.record import checkpoints as module
from zoo.training.record.checkpoints import (
    Expected,
    FolderCheckpoints,
    KeepRule,
    best_steps,
    newest,
    newest_good,
    verify,
)

FILES = ("weights.safetensors", "rest.pt", "manifest.json")


def content(value=1.0):
    weight = torch.full((3, 2), value)
    moments = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": weight * 2}},
        "param_groups": [{"lr": 1e-5, "params": [0]}],
    }
    return {
        "state_dict": {"policy.weight": weight, "policy.bias": torch.arange(3.0).bfloat16()},
        "optimizer_states": [moments],
        "zoo": {
            "optimizer": {"name": "adamw", "shapes": [[[3, 2]]]},
            "rng": {"torch": torch.get_rng_state(), "python": [3, [1, 2], None]},
            "steps_done": 7,
        },
    }


def save(folder, step, value=1.0):
    """Written by a thread, as in a run, and waited for."""
    writer = FolderCheckpoints(lambda text: None)
    writer.save_checkpoint(content(value), folder / f"step-{step}")
    writer.settle()
    return folder / f"step-{step}"


@pytest.fixture(autouse=True)
def in_background(monkeypatch):
    monkeypatch.setattr(module, "IN_BACKGROUND", True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path / "checkpoints", 7)
    verify(path)
    found, expected = FolderCheckpoints().load_checkpoint(path), content()
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert all(torch.equal(found["state_dict"][key], value) for key, value in expected["state_dict"].items())
    assert found["state_dict"]["policy.bias"].dtype == torch.bfloat16
    assert torch.equal(found["optimizer_states"][0]["state"][0]["exp_avg"], torch.full((3, 2), 2.0))
    assert found["zoo"]["steps_done"] == 7 and found["zoo"]["rng"]["python"] == [3, [1, 2], None]
    assert names(path) == sorted(FILES) and names(path.parent) == ["step-7"]


def test_tied_and_strided_weights_are_saved(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    checkpoint = {"state_dict": {"a": weight, "b": weight, "c": weight.t()}}
    writer = FolderCheckpoints()
    writer.save_checkpoint(checkpoint, tmp_path / "step-1")
    writer.settle()
    found = FolderCheckpoints().load_checkpoint(tmp_path / "step-1")["state_dict"]
    assert torch.equal(found["b"], weight) and torch.equal(found["c"], weight.t())


def test_weights_are_written_from_where_they_are():
    whole, part = torch.arange(6.0), torch.arange(6.0)[2:4]
    weights = {"whole": whole, "again": whole, "part": part, "strided": torch.ones(2, 3).t()}
    apart = module._apart(weights)
    assert all(torch.equal(apart[name], weights[name]) for name in weights)
    copied = [name for name in weights if apart[name].data_ptr() != weights[name].data_ptr()]
    assert copied == ["again", "part", "strided"], "only what safetensors does not take as it is"


def test_the_checkpoint_that_is_being_saved_is_not_changed_by_saving(tmp_path):
    checkpoint = content()
    FolderCheckpoints().save_checkpoint(checkpoint, tmp_path / "step-1")
    assert "state_dict" in checkpoint


def test_nothing_is_unpickled_when_a_checkpoint_is_loaded(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harmed"),))

    path = save(tmp_path, 1)
    torch.save({"zoo": Harmful()}, path / "rest.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["rest.pt"] = {"sha256": module.sha256(path / "rest.pt"), "bytes": (path / "rest.pt").stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ZooError, match="rest.pt holds code, not what zoo wrote"):
        FolderCheckpoints().load_checkpoint(path)
    assert not (tmp_path / "harmed").exists()


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    """One bit in the middle of the content."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def remove(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"{}" if file.suffix == ".json" else b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip, remove, empty])
def test_a_damaged_checkpoint_is_noticed_named_and_the_one_before_it_taken(tmp_path, name, damage):
    good, bad = save(tmp_path, 9), save(tmp_path, 10)
    damage(bad / name)
    with pytest.raises(ZooError, match="step-10"):
        verify(bad)
    said = []
    assert newest_good(tmp_path, said.append) == good
    assert len(said) == 1 and "step-10" in said[0] and "before it" in said[0]


def test_weights_that_are_no_numbers_under_right_hashes_are_passed_over(tmp_path):
    good, bad = save(tmp_path, 9), save(tmp_path, 10)
    weights = load_file(bad / "weights.safetensors")
    weights["policy.weight"][0, 0] = math.nan
    save_file(weights, bad / "weights.safetensors")
    manifest = json.loads((bad / "manifest.json").read_text())
    file = bad / "weights.safetensors"
    manifest[file.name] = {"sha256": module.sha256(file), "bytes": file.stat().st_size}
    (bad / "manifest.json").write_text(json.dumps(manifest))
    expected = Expected({name: list(value.shape) for name, value in weights.items()}, "adamw", [[[3, 2]]], ())
    said = []
    assert newest_good(tmp_path, said.append, expected) == good
    assert "step-10" in said[0] and "policy.weight" in said[0] and "no finite numbers" in said[0]


def test_a_damaged_checkpoint_is_not_loaded(tmp_path):
    path = save(tmp_path, 1)
    flip(path / "weights.safetensors")
    with pytest.raises(ZooError, match="weights.safetensors is damaged"):
        FolderCheckpoints().load_checkpoint(path)


def test_the_last_checkpoint_is_the_one_with_the_largest_step(tmp_path):
    for step in (2, 100, 10, 9):
        save(tmp_path, step)
    (tmp_path / "step-99x").mkdir()
    (tmp_path / "notes").mkdir()
    assert newest(tmp_path) == newest_good(tmp_path) == tmp_path / "step-100"


def test_without_any_checkpoint_there_is_none(tmp_path):
    assert newest(tmp_path / "nothing") is None and newest_good(tmp_path / "nothing") is None
    only = save(tmp_path, 1)
    truncate(only / "rest.pt")
    assert newest_good(tmp_path, lambda text: None) is None


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    good = save(tmp_path, 1)
    for name in (".tmp-step-2", ".tmp-old-step-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    assert newest_good(tmp_path) == good
    assert names(tmp_path) == ["step-1"]


def test_saving_over_the_leftover_of_a_kill_works(tmp_path):
    (tmp_path / ".tmp-step-2").mkdir()
    (tmp_path / ".tmp-step-2" / "rest.pt").write_bytes(b"half")
    verify(save(tmp_path, 2))
    assert names(tmp_path) == ["step-2"]


def test_a_removed_checkpoint_is_gone_and_removing_it_again_is_no_error(tmp_path):
    path = save(tmp_path, 1)
    FolderCheckpoints().remove_checkpoint(path)
    FolderCheckpoints().remove_checkpoint(path)
    assert names(tmp_path) == []


# What a full disk looks like to each of the three writers.
FULL = {
    "save_file": safetensors.SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    "os.fsync": OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.fixture(params=FULL)
def fill_the_disk(request, monkeypatch):
    """From the call on a writer leaves half a file and fails."""

    def fail(*arguments, **options):
        for argument in arguments:
            if hasattr(argument, "write_bytes"):
                argument.write_bytes(b"half")
        raise FULL[request.param]

    targets = {"save_file": (module, "save_file"), "torch.save": (torch, "save"), "os.fsync": (os, "fsync")}
    return lambda: monkeypatch.setattr(*targets[request.param], fail)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_half_written(tmp_path, fill_the_disk):
    old = save(tmp_path, 1)
    fill_the_disk()
    with pytest.raises(TrainingStopped, match="the disk is full. Nothing half-written was left. .*step-1") as caught:
        save(tmp_path, 2)
    assert "Free some space, then: zoo resume" in caught.value.hint
    assert caught.value.exit_status == 1
    assert names(tmp_path) == ["step-1"]
    verify(old)


def test_a_full_disk_at_the_first_checkpoint_says_that_there_is_none(tmp_path, fill_the_disk):
    fill_the_disk()
    with pytest.raises(TrainingStopped, match="no earlier checkpoint") as caught:
        save(tmp_path / "checkpoints", 1)
    assert "start again" in caught.value.hint
    assert names(tmp_path / "checkpoints") == []


def test_a_folder_that_cannot_be_written_is_an_error_for_a_person(tmp_path):
    (tmp_path / "checkpoints").write_text("a file, not a folder")
    with pytest.raises(TrainingStopped, match="could not be written"):
        save(tmp_path / "checkpoints", 1)


def test_a_mistake_in_the_program_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="^a bug$"):
        save(tmp_path, 1)
    assert names(tmp_path) == []


# -- in the background ---------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """A disk that writes nothing until `disk.set()`, or for which `disk.error` is set."""
    free, original = threading.Event(), module.save_file
    free.error = None

    def slow(*given):
        assert free.wait(60)
        if free.error:
            raise free.error
        original(*given)

    monkeypatch.setattr(module, "save_file", slow)
    yield free
    free.set()


def test_a_slow_disk_delays_no_step(tmp_path, disk):
    """Weights that the next steps change are those of the step at which they were saved."""
    checkpoint, writer = content(), FolderCheckpoints()
    writer.save_checkpoint(checkpoint, tmp_path / "step-1")
    checkpoint["state_dict"]["policy.weight"].zero_()
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].zero_()
    checkpoint["zoo"]["rng"]["python"][1].append(3)
    assert writer.look() == [] and newest(tmp_path) is None
    disk.set()
    writer.settle()
    assert writer.look() == [tmp_path / "step-1"] and writer.look() == []
    found = FolderCheckpoints().load_checkpoint(tmp_path / "step-1")
    assert torch.equal(found["state_dict"]["policy.weight"], content()["state_dict"]["policy.weight"])
    assert torch.equal(found["optimizer_states"][0]["state"][0]["exp_avg"], torch.full((3, 2), 2.0))
    assert found["zoo"]["rng"]["python"] == [3, [1, 2], None]


def test_the_one_before_stays_until_the_next_is_complete_and_one_is_in_flight(tmp_path, disk):
    writer, rule = FolderCheckpoints(), KeepRule(1, 0, 0)
    disk.set()
    writer.save_checkpoint(content(1.0), tmp_path / "step-1")
    writer.settle()
    disk.clear()
    writer.save_checkpoint(content(2.0), tmp_path / "step-2", lambda: rule.remove_old(tmp_path, 2, ()))
    assert newest(tmp_path) == tmp_path / "step-1"
    second = threading.Thread(target=writer.save_checkpoint, args=(content(3.0), tmp_path / "step-3"))
    second.start()
    second.join(0.05)
    assert second.is_alive(), "it waits for the one in flight"
    disk.set()
    second.join()
    writer.settle()
    assert names(tmp_path) == ["step-2", "step-3"]


def test_what_fails_in_the_background_is_told_by_the_next_step(tmp_path, disk):
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    writer = FolderCheckpoints()
    writer.save_checkpoint(content(), tmp_path / "step-1")
    assert writer.look() == []
    disk.set()
    while writer._writing.is_alive():
        pass
    with pytest.raises(TrainingStopped, match="step-1 could not be written: the disk is full. Nothing half-written"):
        writer.look()
    assert names(tmp_path) == [] and writer.look() == [], "told once"


def test_a_kill_in_the_background_leaves_the_one_before(tmp_path, monkeypatch):
    """Killed with half a file written; what is half-written goes at the next start."""
    good = save(tmp_path, 1)

    def half(weights, file):
        file.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(module, "save_file", half)
        FolderCheckpoints().save_checkpoint(content(2.0), tmp_path / "step-2", lambda: shutil.rmtree(good))
        time.sleep(60)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert names(tmp_path) == [".tmp-step-2", "step-1"]
    assert newest_good(tmp_path, pytest.fail) == good and names(tmp_path) == ["step-1"]


def test_a_process_that_ends_completes_what_it_writes(tmp_path):
    """Python waits for a thread that is no daemon, also after an exception."""
    code = f"""
import time, torch
from pathlib import Path
from zoo.training.record import checkpoints
original = checkpoints.save_file
checkpoints.save_file = lambda *given: (time.sleep(0.3), original(*given))
writer = checkpoints.FolderCheckpoints()
writer.save_checkpoint({{"state_dict": {{"policy.a": torch.ones(2)}}}}, Path({str(tmp_path)!r}) / "step-1")
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 3
    verify(tmp_path / "step-1")


def test_without_memory_for_a_copy_it_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 10)
    FolderCheckpoints().save_checkpoint(content(), tmp_path / "step-1")
    verify(tmp_path / "step-1")


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    good = save(tmp_path, 1)
    with pytest.raises(TrainingStopped, match="policy.weight is no finite number at step-2.* checkpoint is step-1"):
        save(tmp_path, 2, value)
    assert names(tmp_path) == ["step-1"] and newest_good(tmp_path) == good


def free(monkeypatch, left):
    usage = namedtuple("usage", "total used free")(10**9, 0, left)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    old = save(tmp_path, 1)
    free(monkeypatch, 20)
    with pytest.raises(TrainingStopped, match="needs [0-9]+ kB, and the disk has [0-9]+ kB left. .*step-1"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-1"]
    verify(old)


def test_a_disk_that_will_soon_be_full_is_told_once(tmp_path, monkeypatch):
    free(monkeypatch, int(1.5 * module._bytes(content())))
    said = []
    writer = FolderCheckpoints(said.append)
    for step in (1, 2):
        writer.save_checkpoint(content(), tmp_path / f"step-{step}")
    writer.settle()
    assert len(said) == 1 and "soon be full" in said[0] and names(tmp_path) == ["step-1", "step-2"]


def test_a_run_folder_that_is_gone_is_not_begun_again(tmp_path):
    with pytest.raises(TrainingStopped, match="could not be written: .*No such file") as caught:
        save(tmp_path / "run" / "checkpoints", 1)
    assert "Put the run folder back" in caught.value.hint and names(tmp_path) == []


# -- which ones are kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "best", "kept", "for_good"),
    [
        (KeepRule(1, 0, 0), (), [8], []),
        (KeepRule(3, 0, 0), (), [6, 7, 8], []),
        (KeepRule(1, 3, 0), (), [3, 6, 8], [3, 6]),
        (KeepRule(2, 4, 2), (5, 2), [2, 4, 5, 7, 8], [2, 4, 5, 8]),
    ],
)
def test_the_newest_the_regular_and_the_best_are_kept(tmp_path, rule, best, kept, for_good):
    for step in range(1, 10):
        (tmp_path / f"step-{step}").mkdir()
    rule.remove_old(tmp_path, 8, best)
    assert names(tmp_path) == [f"step-{step}" for step in kept], "9 is of a future that will be made again"
    rule.remove_at_end(tmp_path, best)
    assert (names(tmp_path) if tmp_path.exists() else []) == [f"step-{step}" for step in for_good]


def test_the_best_steps_are_those_with_the_highest_scores():
    scores = {0: 9.0, 10: 1.0, 20: 3.0, 30: float("nan"), 40: 3.0, 50: 2.0}
    assert best_steps(scores, 3) == [20, 40, 50] and best_steps(scores, 0) == []
