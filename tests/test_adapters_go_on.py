"""Adapters that a model comes with: trained further, or merged under new ones; several of them told apart."""

import math
import shutil
import signal

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_resume import SignalAt, in_child, installed
from tiny_runs import FLOAT32, cli, data_for, losses, same_bytes, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

import zoo
from zoo.errors import ZooError
from zoo.libraries.adapters import load_on_base
from zoo.models import start as policies
from zoo.models.memory import Step, Way, _of_model
from zoo.models.scoring import score_answers
from zoo.values.types import Answer

ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]


def logps(model):
    with torch.no_grad():
        return score_answers(model.eval(), ANSWERS, "shared").per_token


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    common = {**FLOAT32, "lora": True, "lora_rank": 4, "lr": 1e-2}
    return lambda algo="dpo", **options: train(algo, **{**common, "data": data_for(algo, tmp_path), **options})


@pytest.mark.parametrize("options", [{}, {"train_modules": "lm_head"}, {"lora_kind": "dora"}], ids=str)
def test_adapters_go_on_and_the_reference_is_what_they_were(run, options):
    first = run("sft", **options)
    second = run(model=str(first.path), lora_continue=True, lora_rank=16, reference_cache="off", epochs=2)
    assert losses(second)[0] == pytest.approx(math.log(2), abs=1e-5) and losses(second)[-1] < 0.69
    files = [load_file(done.model_path / "adapter_model.safetensors") for done in (first, second)]
    assert {name: value.shape for name, value in files[0].items()} == {n: v.shape for n, v in files[1].items()}
    assert not torch.equal(*(file["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] for file in files))
    names = [file.name for file in second.model_path.iterdir() if file.is_dir()]
    assert not names and not (second.path / "base").exists(), "the start is not written"
    one, two = (AutoPeftModelForCausalLM.from_pretrained(done.model_path) for done in (first, second))
    assert one.peft_config["default"].base_model_name_or_path == two.peft_config["default"].base_model_name_or_path
    assert not torch.allclose(logps(one), logps(two), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "nf4"}, {"quantize": "int8"}, {"precision": "bf16-mixed"}, {"base_dtype": "bfloat16"},
        {"precision": "bf16-mixed", "quantize": "nf4"},
    ],
    ids=lambda options: "-".join(options.values()),
)  # fmt: skip
def test_the_copy_of_whole_modules_is_as_exact_as_what_is_trained(run, monkeypatch, options):
    """Rounded or quantised like the matrices of the base, it would not be what training begins with."""
    made = []
    real = policies.round_frozen
    monkeypatch.setattr(policies, "round_frozen", lambda model, *given: made.append(real(model, *given)))
    first = run("sft", lora_targets="q_proj,v_proj", train_modules="lm_head,up_proj,norm")
    second = run(model=str(first.path), lora_continue=True, reference_cache="off", **options)
    assert losses(second)[0] == pytest.approx(math.log(2), abs=1e-6)
    copies = {name: value.dtype for name, value in made[-1].named_parameters() if ".modules_to_save.start." in name}
    assert len(copies) == 4 and {*copies.values()} == {torch.float32}, "head, norm, and one of each layer"
    base = {value.dtype for name, value in made[-1].named_parameters() if "down_proj" in name}
    assert torch.float32 not in base, "the base is rounded"


def test_the_scores_of_the_start_are_those_of_its_merged_model(run, tmp_path):
    """Run on the merged model as its reference, the losses are the same."""
    first = run("sft")
    own = run(model=str(first.path), lora_continue=True)
    named = run(model=str(first.path), lora_continue=True, reference=str(first.path))
    assert losses(own) == pytest.approx(losses(named), abs=1e-5)


def test_the_cache_tells_starts_apart(run):
    first, second = run("sft"), run("sft", lr=3e-2)
    for start in (first, second):
        assert losses(run(model=str(start.path), lora_continue=True))[0] == pytest.approx(math.log(2), abs=1e-5)


def test_without_it_new_adapters_lie_on_the_merged_ones(run):
    first = run("sft")
    second = run(model=str(first.path))
    assert losses(second)[0] == pytest.approx(math.log(2), abs=1e-5)
    base = AutoModelForCausalLM.from_pretrained(second.path / "base")
    expected = AutoPeftModelForCausalLM.from_pretrained(first.model_path)
    torch.testing.assert_close(logps(base), logps(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "are merged into its weights; new ones are trained on top. Adapters of rank 4 on 14 layers: q_proj,"),
        ({"lora_continue": True}, "are trained further. Adapters of rank 4 on 14 layers: q_proj, k_proj,"),
        ({"lora": False}, "are merged into its weights. "),
    ],
    ids=str,
)
def test_a_run_says_what_becomes_of_old_adapters(run, capsys, options, said):
    start = run("sft", lora_rank=4).path
    run("sft", model=str(start), quiet=False, **{"lora_rank": 4, **options})
    text = " ".join(capsys.readouterr().out.split())
    assert f"The adapters of {start} {said}" in text


def test_killed_and_resumed_it_is_the_unbroken_run(run, tmp_path):
    options = {"model": str(run("sft").path), "lora_continue": True, "save_every": 2, "epochs": 2}
    unbroken = run(name="unbroken", **options)

    def action():
        installed(SignalAt(3, signal.SIGKILL))
        run(name="broken", **options)

    assert in_child(action, tmp_path / "output.txt") == 128 + signal.SIGKILL
    broken = zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert all(same_bytes(broken, unbroken, name) for name in ("model/adapter_model.safetensors", "metrics.jsonl"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "has no adapters"),
        ({"algo": "rm"}, "is for language models"),
        ({"new_tokens": "<x>"}, "cannot get rows for new tokens"),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_told_before_anything_is_loaded(run, tmp_path, tiny_folder, monkeypatch, options, said):
    start = run("sft").path if options else None
    monkeypatch.setattr("zoo.training.execution.Execution", None)
    options = {"algo": "sft", **options}
    options |= {"data": data_for("dpo" if options["algo"] == "rm" else "sft", tmp_path), "lora": True}
    given = {**options, **({"model": str(start)} if start else {})}
    with pytest.raises(ZooError, match=said):
        trainer(tmp_path, tiny_folder)(**given, lora_continue=True)


@pytest.mark.parametrize(
    "options", [{"quantize": "nf4"}, {"tensor_parallel": 2, "devices": 2}], ids=lambda options: next(iter(options))
)
def test_adapters_that_read_whole_matrices_do_not_go_on_with_what_cuts_or_packs_them(run, monkeypatch, options):
    first = run("sft", lora_kind="dora+rslora", keep_checkpoints=True)
    told = r"The kind of the adapters of .*, dora\+rslora, reads whole matrices, and --" + next(iter(options))[:6]
    if "quantize" in options:
        # A model is made of the checkpoint only after the look ahead.
        with pytest.raises(ZooError, match=told):
            run(model=f"{first.path}@last", lora_continue=True, **options)
    monkeypatch.setattr("zoo.training.execution.Execution", None)
    with pytest.raises(ZooError, match=told) as error:
        run(model=str(first.path), lora_continue=True, **options)
    assert "Leave out --lora-continue" in error.value.hint
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    typed = ("train", "--algo", "sft", "--model", first.path, "--lora", "--lora-continue", *flags, "--dry-run")
    status, said, error = cli(*typed)
    assert status == 2 and "reads whole matrices" in " ".join(error.split()) and "Everything" not in said


def test_the_kind_that_is_typed_does_not_matter_to_adapters_that_go_on(run):
    done = run("sft", model=str(run("sft").path), lora_continue=True, lora_kind="dora", quantize="nf4", max_steps=1)
    assert done.is_complete


def test_options_of_their_shape_are_told(run, capsys):
    first = run("sft")
    run("sft", model=str(first.path), lora_continue=True, quiet=False, lora_rank=8, train_modules="norm")
    said = " ".join(capsys.readouterr().out.split())
    for option in ("--lora-rank", "--train-modules"):
        why = "adapters that go on keep the shape and the modules that they were made with."
        assert f"{option} has no effect: {why}" in said


def test_the_preflight_counts_the_second_adapter(tiny_model):
    step = Step(64, 8, 8, 2)
    one, two = (_of_model(tiny_model.config, Way("32-true", lora=True, goes_on=given), step) for given in (False, True))
    assert two.weights - one.weights == one.gradients == two.gradients


# -- several adapters ------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path, tiny_folder):
    """A folder as peft writes it: one adapter in it, one in a folder of its own."""
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    model.add_adapter("french", settings)
    for name, value in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "several")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for folder in (tmp_path / "several", tmp_path / "several" / "french"):
        tokenizer.save_pretrained(folder)
    (tmp_path / "several" / "checkpoint-5").mkdir()
    (tmp_path / "several" / "checkpoint-5" / "adapter_config.json").write_text("{}")
    return tmp_path / "several"


def test_one_of_several_adapters_is_named(run, several, tiny_folder, tmp_path):
    with pytest.raises(ZooError, match="several adapters: default, french") as error:
        run("sft", model=str(several))
    assert error.value.hint == "Name one: --adapter default or --adapter french."
    with pytest.raises(ZooError, match="no adapter 'frensh'.* Did you mean 'french'"):
        run("sft", model=str(several), adapter="frensh")
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    for name in ("default", "french"):
        done = run("sft", model=str(several), adapter=name, lora_continue=True, max_steps=1, lr=0.0)
        path = several if name == "default" else several / name
        expected = PeftModel.from_pretrained(base, str(path))
        torch.testing.assert_close(logps(load_on_base(str(done.model_path))), logps(expected), rtol=1e-5, atol=1e-5)
        expected.unload()
        again = zoo.train(config=done.path / "run.yaml", name=f"again-{name}", quiet=True)
        assert losses(again) == losses(done)


def test_another_role_takes_the_default_one_and_says_so(run, several, capsys):
    run(model=str(several), adapter="french", lora_continue=True, reference=str(several), max_steps=1, quiet=False)
    said = "".join(capsys.readouterr().out.split())
    note = f"{several} has several adapters, and 'default' is taken: name {several / 'french'} for another."
    assert said.count("".join(f"The reference: {note}".split())) == 1
    typed = ("train", "--algo", "dpo", "--model", str(several / "french"), "--reference", str(several), "--dry-run")
    assert "".join(note.split()) in "".join(cli(*typed)[1].split())
    assert "several adapters" not in cli(*typed[:5], "--reference", str(several / "french"), "--dry-run")[1]


def test_commands_take_one_of_several(several, tmp_path):
    for typed in (("chat", str(several), "--prompt", "one"), ("eval", str(several))):
        status, _, told = cli(*typed)
        assert status == 2 and "several adapters: default, french" in " ".join(told.split())
    status, said, told = cli("chat", str(several), "--adapter", "french", "--prompt", "one", "--max-new-tokens", "2")
    assert status == 0, said + told
    made = tmp_path / "made"
    status, said, told = cli("export", str(several), str(made), "--adapter", "french", "--merge")
    assert status == 0, said + told
    expected = AutoPeftModelForCausalLM.from_pretrained(several / "french", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    torch.testing.assert_close(logps(plain), logps(expected), rtol=1e-4, atol=1e-4)


def test_a_folder_whose_adapters_all_have_folders_is_told(several, tiny_folder, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (several / name).unlink()
    made = tmp_path / "made"
    asked = [("chat", str(several), "--prompt", "one"), ("export", str(several), str(made), "--merge")]
    for typed in asked:
        status, _, told = cli(*typed)
        assert status == 2 and "folders of their own: french" in " ".join(told.split())
    shutil.copytree(several / "french", several / "german")
    for typed in asked:
        status, _, told = cli(*typed)
        assert status == 2 and "several adapters: french, german" in " ".join(told.split())
    named = f"Nameone:{several / 'french'}or{several / 'german'}."
    train = ("train", "--algo", "dpo", "--model", str(tiny_folder), "--dry-run")
    for typed in (("chat", str(tiny_folder), "--vs", str(several)), (*train, "--reference", str(several))):
        status, _, told = cli(*typed)
        told = "".join(told.split())
        assert status == 2 and named in told and "--adapter" not in told
    status, said, told = cli("export", str(several / "german"), str(made), "--merge")
    assert status == 0 and (made / "config.json").is_file(), said + told
