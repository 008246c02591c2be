"""`zoo export`: GGUF files by llama.cpp's converter, and uploads to the hub, here to a stand-in for each."""

import hashlib
import json
import tarfile

import huggingface_hub.constants as constants
import pytest
from hub_server import Hub
from tiny_runs import cli, data_for, trainer
from transformers import AutoTokenizer

from zoo.errors import ZooError
from zoo.models import gguf
from zoo.options.strict_yaml import read_front

CONVERTER = """
import json, sys
from pathlib import Path

folder, _, file, _, kind = sys.argv[1:]
if json.loads((Path(folder) / "tokenizer_config.json").read_text()).get("pad_token") == "refused":
    sys.exit("Traceback\\nNotImplementedError: BPE pre-tokenizer was not recognized")
said = {"kind": kind, "files": sorted(path.name for path in Path(folder).iterdir())}
said |= {"eos": json.loads((Path(folder) / "tokenizer_config.json").read_text())["eos_token"]}
Path(file).write_text(json.dumps(said))
"""
"""Takes the arguments of llama.cpp's, and writes what it was given instead of a model."""
QUANTISER = """#!/bin/sh
echo "$3 of $(cat $1)" > "$2"
"""


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def llama(tmp_path, monkeypatch):
    """A folder of llama.cpp with the stand-in for its converter."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / gguf.SCRIPT).write_text(CONVERTER)
    monkeypatch.setenv(gguf.OWN, str(folder))
    monkeypatch.setattr("zoo.libraries.extras.is_missing", lambda module: False)
    return folder


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop0123")
    yield server
    server.stop()


# -- GGUF --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_the_converter_gets_the_whole_model_with_the_token_that_ends_its_answers(train, llama, tmp_path, lora):
    run = train("sft", max_steps=1, lora=lora)
    status, said, error = cli("export", run.path, "mine", "--gguf", "q8_0")
    assert status == 0, error
    given = json.loads((tmp_path / "mine" / "mine-q8_0.gguf").read_text())
    assert given["kind"] == "q8_0" and given["eos"] == "<|im_end|>"
    assert {"model.safetensors", "chat_template.jinja", "generation_config.json"} <= set(given["files"])
    card = (tmp_path / "mine" / "README.md").read_text()
    front = read_front(card)
    assert front["library_name"] == "gguf" and "of the kind q8_0" in card and 'gguf_file="mine-q8_0.gguf"' in card
    assert ("adapters were merged" in card) == lora and "# mine\n" in card
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["README.md", "mine-q8_0.gguf"]


def test_every_form_ends_answers_where_the_template_does(train, llama, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}<assistant>")
    for name in ("whole", "lora"):
        train("sft", name=name, max_steps=1, lora=name == "lora", template=str(template), new_tokens="<end>")
    for form in (["whole", "copy"], ["lora", "adapters"], ["lora", "merged", "--merge"]):
        assert cli("export", *form)[0] == 0
    assert cli("soup", "whole", "whole", "--to", "mean")[0] == 0
    for folder in ("runs/whole/model", "runs/lora/model", "copy", "adapters", "merged", "mean"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ends = json.loads((tmp_path / folder / "generation_config.json").read_text())["eos_token_id"]
        assert tokenizer.convert_ids_to_tokens(ends) == ["<end>", "<|im_end|>"], folder
        assert tokenizer.chat_template == template.read_text(), folder
    assert cli("export", "lora", "made", "--gguf", "f16")[0] == 0
    assert json.loads((tmp_path / "made" / "made-f16.gguf").read_text())["eos"] == "<end>"
    card = (tmp_path / "adapters" / "README.md").read_text()
    assert 'GenerationConfig.from_pretrained("FOLDER")' in card and "--generation-config FOLDER" in card


def test_four_bits_are_made_by_llama_cpps_own_program(train, llama, tmp_path, monkeypatch):
    run = train("sft", max_steps=1)
    monkeypatch.setenv("PATH", "/nowhere")
    status, said, error = cli("export", run.path, "made", "--gguf", "q4_k_m")
    assert status == 2 and "llama-quantize, which is not on the PATH" in error and "brew install llama.cpp" in error
    assert not (tmp_path / "made").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (llama / "build" / "bin").mkdir(parents=True)
    program = llama / "build" / "bin" / "llama-quantize"
    program.write_text(QUANTISER)
    program.chmod(0o755)
    monkeypatch.setenv(gguf.OWN, str(llama))
    gguf.write_gguf(run.model_path, tmp_path / "small.gguf", "q4_k_m", print)
    made = (tmp_path / "small.gguf").read_text()
    assert made.startswith("Q4_K_M of") and '"kind": "f16"' in made


def test_what_the_converter_refuses_is_told_and_leaves_nothing(train, llama, tmp_path):
    run = train("sft", max_steps=1)
    file = run.model_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "refused"}))
    with pytest.raises(ZooError, match="NotImplementedError: BPE pre-tokenizer was not recognized") as caught:
        gguf.write_gguf(run.model_path, tmp_path / "made.gguf", "f16", print)
    assert gguf.OWN in caught.value.hint and not list(tmp_path.glob("*.gguf"))


def test_a_reward_model_has_no_gguf(train, llama, tmp_path):
    run = train("rm", data=data_for("dpo", tmp_path), max_steps=1)
    status, _, error = cli("export", run.path, "made", "--gguf", "f16")
    assert status == 2 and "is a reward model" in error and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["made", "--gguf", "f17"], "does not take 'f17'. Did you mean 'f16'?"),
        (["made", "--gguf", "f16", "--dtype", "bfloat16"], "--dtype has no effect"),
        ([], "Where to?"),
        (["made", "--private"], "--private is for --push"),
        (["made", "--dry-run"], "--dry-run is for --push"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(llama, monkeypatch, tmp_path, flags, says):
    monkeypatch.chdir(tmp_path)
    status, _, error = cli("export", "last", *flags)
    assert status == 2 and says in error


def test_the_converter_needs_a_package(train, monkeypatch):
    run = train("sft", max_steps=1)
    monkeypatch.setattr("zoo.libraries.extras.is_missing", lambda module: module == "sentencepiece")
    status, _, error = cli("export", run.path, "made", "--gguf", "f16")
    assert status == 2 and 'pip install "sentencepiece' in error


def archive_of(folder, files):
    """A source archive as pip gets it."""
    archive = folder / "llama_cpp_python-0.3.36.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, text in files.items():
            file = folder / "one"
            file.write_text(text)
            packed.add(file, f"llama_cpp_python-0.3.36/{name}")
    return archive


def test_the_converter_is_taken_from_the_archive_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(gguf.OWN, raising=False)
    inside = ["convert_hf_to_gguf.py", "conversion/base.py", "gguf-py/gguf/a.py", "gguf-py/tests/b.py", "src/c.cpp"]
    archive = archive_of(tmp_path, {f"vendor/llama.cpp/{name}": "x" for name in inside} | {"setup.py": "x"})
    fetched = []
    monkeypatch.setattr(gguf, "_fetched", lambda folder: fetched.append(folder) or archive)
    said = []
    script = gguf._converter(said.append)
    assert script.read_text() == "x" and gguf._converter(said.append) == script
    assert len(fetched) == 1 and "once" in said[0]
    names = {str(file.relative_to(script.parent)) for file in script.parent.rglob("*") if file.is_file()}
    assert names == set(inside[:3])


def test_another_archive_is_not_unpacked(tmp_path, monkeypatch):
    class Done:
        returncode, stderr = 0, ""

    monkeypatch.setattr(gguf.subprocess, "run", lambda *given, **options: archive_of(tmp_path, {"a": "x"}) and Done())
    with pytest.raises(ZooError, match="damaged or another file"):
        gguf._fetched(tmp_path)
    digest = hashlib.sha256((tmp_path / "llama_cpp_python-0.3.36.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(gguf, "SHA256", digest)
    # Another archive each time: gzip writes the time.
    monkeypatch.setattr(gguf.subprocess, "run", lambda *given, **options: Done())
    assert gguf._fetched(tmp_path).name.endswith(".tar.gz")


def test_a_folder_without_the_converter_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(gguf.OWN, str(tmp_path))
    with pytest.raises(ZooError, match="there is no convert_hf_to_gguf.py"):
        gguf._converter(print)


# -- the hub -----------------------------------------------------------------------------------------------------------


def test_a_model_is_sent_with_its_card(train, hub, tmp_path):
    run = train("sft", max_steps=1, lora=True)
    status, said, error = cli("export", run.path, "--merge", "--push", "me/plum", "--private")
    assert status == 0, error
    sent = hub.files["me/plum"]
    assert {"README.md", "config.json", "model.safetensors", "chat_template.jinja", "generation_config.json"} <= set(
        sent
    )
    assert b"# plum\n" in sent["README.md"] and hub.made["me/plum"].get("private", True) is not False
    assert f"{hub.url}/me/plum" in said and "model.safetensors" in said
    assert cli("export", run.path, "same", "--merge")[0] == 0
    assert {name for name, content in sent.items() if content != (tmp_path / "same" / name).read_bytes()} == {
        "README.md"
    }
    assert all(key == "Bearer hf_abcdefghijklmnop0123" for key in hub.keys - {None})
    assert "abcdefghij" not in said + error
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and b"hf_abcdefg" in file.read_bytes()]
    assert kept == []


def test_a_dry_run_lists_what_would_go_and_sends_nothing(train, hub, tmp_path):
    run = train("sft", max_steps=1)
    before = set(tmp_path.iterdir())
    status, said, error = cli("export", run.path, "--push", "me/plum", "--dry-run")
    assert status == 0 and not hub.keys, error
    assert "model.safetensors" in said and "README.md" in said and "nothing was sent" in said
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


def test_adapters_whose_base_nobody_else_has_are_refused(train, hub):
    run = train("sft", max_steps=1, lora=True)
    status, _, error = cli("export", run.path, "--push", "me/plum")
    assert status == 2 and "only this machine has" in error and "--merge" in error and not hub.keys


def test_a_refusal_of_the_hub_says_what_to_do(train, hub):
    run = train("sft", max_steps=1)
    hub.refuse = 403
    status, _, error = cli("export", run.path, "--push", "me/plum")
    assert status == 2 and "(403" in error and "hf auth login" in error and "hf_abc" not in error
    status, _, error = cli("export", run.path, "--push", "me//plum")
    assert status == 2 and "no name of the hub" in error
