"""Files that zoo writes have the rights that the umask leaves, also where a library gives them to their owner alone."""

import os

import pytest
import torch
from tiny_runs import cli, trainer

import zoo
from zoo.bundled.laboratory import networks
from zoo.cards import kept
from zoo.libraries.scattered import Part, write_parts
from zoo.models import default
from zoo.paths import unique_beside


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request):
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def wrong(folder, umask):
    """The files and folders in a folder that have other rights."""
    rights = {path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    wanted = {name: (0o777 if (folder / name).is_dir() else 0o666) & ~umask for name in rights}
    assert rights
    return {name: oct(mode) for name, mode in rights.items() if mode != wanted[name]}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_those_of_a_run_and_of_what_is_made_of_it(tmp_path, tiny_folder, umask, lora):
    train = trainer(tmp_path, tiny_folder)
    run = train(lora=lora, save_every=1, keep_checkpoints=True, max_steps=2)
    status, _, error = cli("export", run.path, tmp_path / "runs" / "merged", *(["--merge"] if lora else []))
    assert status == 0, error
    status, _, error = cli("soup", run.path, tiny_folder, "--to", tmp_path / "runs" / "soup")
    assert status == 0, error
    assert len(list((tmp_path / "runs").rglob("*.safetensors"))) >= 4, "the run, its checkpoint, and what was made"
    assert wrong(tmp_path / "runs", umask) == {}


def test_those_of_a_part_of_a_model_that_is_shared_out(tmp_path, umask):
    write_parts({"weight": Part.of_whole(torch.zeros(2))}, tmp_path / "part-0-of-1.safetensors")
    assert wrong(tmp_path, umask) == {}


def test_those_in_the_cache(tmp_path, monkeypatch, tiny_model, tiny_tokenizer, umask):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    kept.write("tests", ["one"], {"a": 1}, [zoo.__file__])
    assert kept.read("tests", ["one"]) == {"a": 1}
    networks.kept("tiny", {"seed": 0}, lambda: (tiny_model, tiny_tokenizer))
    for _ in range(2):
        default._write(tiny_model, tiny_tokenizer, default.unpacked_folder())
    assert wrong(tmp_path, umask) == {}
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_is_left_beside_goes_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), unique_beside(tmp_path / "some" / "file") as beside:
        beside.write_text("half")
        raise KeyError
    assert list((tmp_path / "some").iterdir()) == []
