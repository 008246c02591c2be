"""The default model is unpacked once, in float32, and an older copy makes way for it."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file

from zoo.errors import ZooError
from zoo.libraries.reliance import require
from zoo.models import default


@pytest.fixture
def gguf(tiny_folder, tmp_path, monkeypatch):
    """A file that transformers reads as the tiny model; its weights lie between the values of bfloat16."""
    file = tmp_path / "tiny.gguf"
    file.touch()
    # The checks of the library read models too, that are no GGUF files.
    require("transformers")
    for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        read = kind.from_pretrained
        monkeypatch.setattr(kind, "from_pretrained", lambda _, gguf_file, read=read, **rest: read(tiny_folder, **rest))
    return file


@pytest.fixture
def old(tiny_folder, tmp_path, monkeypatch):
    """The cache with the default model as earlier versions kept it, and no hub."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(default, "_from_hub", lambda say: None)
    folder = tmp_path / "cache" / "models" / default.NAME
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return folder


def test_weights_are_unpacked_as_they_are(gguf, tiny_folder, tmp_path):
    default.convert_gguf(gguf, tmp_path / "new")
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "new", tiny_folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert any((found[name] != found[name].bfloat16().float()).any() for name in found), "nothing was rounded"
    assert default.is_unpacked(tmp_path / "new")


def test_a_folder_that_cannot_be_written_is_told(gguf, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ZooError, match="The model cannot be written to .*: Not a directory") as refused:
        default.convert_gguf(gguf, tmp_path / "file" / "models" / "new")
    assert "ZOO_CACHE" in refused.value.hint


def test_a_bfloat16_copy_of_an_earlier_version_is_replaced(gguf, old, monkeypatch):
    monkeypatch.setattr(default, "_gguf_file", lambda folder, say: gguf)
    monkeypatch.setattr(default, "_check", lambda file: None)
    said = []
    assert not default.is_unpacked(old)
    assert default.default_model(said.append) == old and default.is_unpacked(old)
    assert [path.name for path in old.parent.iterdir()] == [default.NAME], "nothing is left beside it"
    assert len(said) == 1 and default.default_model(said.append) == old and len(said) == 1, "once only"


def test_without_a_connection_the_earlier_copy_is_used_and_named(old, monkeypatch):
    def refuse(folder, say):
        raise ZooError("No network.")

    monkeypatch.setattr(default, "_gguf_file", refuse)
    said = []
    assert default.default_model(said.append) == old
    assert "bfloat16" in said[0] and (old / "model.safetensors").is_file()
    shutil.rmtree(old)
    with pytest.raises(ZooError, match="No network"):
        default.default_model(said.append)


def test_no_bar_is_drawn_while_it_is_unpacked(gguf, tmp_path, monkeypatch, capfd):
    from tqdm.auto import tqdm

    read = transformers.AutoModelForCausalLM.from_pretrained

    def drawn(*arguments, **options):
        list(tqdm(range(3), desc="tensors"))
        return read(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", drawn)
    default.convert_gguf(gguf, tmp_path / "new")
    assert "tensors" not in capfd.readouterr().err
    list(tqdm(range(3), desc="tensors"))
    assert "tensors" in capfd.readouterr().err, "those of the user are drawn"
