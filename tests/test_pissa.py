"""PiSSA: adapters begin as principal parts, with a second, frozen one that takes these away again."""

import copy
import json
import math
import signal

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from test_resume import SignalAt, in_child, installed
from tiny_runs import FLOAT32, cli, data_for, losses, same_bytes, trainer
from transformers import AutoModelForCausalLM

import zoo
from zoo.errors import ZooError
from zoo.libraries.adapters import load_on_base, merged, without_adapters
from zoo.models.loading import add_lora
from zoo.models.memory import Step, Way, _of_model
from zoo.models.precision import round_frozen
from zoo.models.scoring import score_answers
from zoo.values.types import Answer

ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]
RANK, ALPHA = 4, 8.0


def adapted(model, kind="pissa", targets="all-linear", rank=RANK, **options):
    return add_lora(copy.deepcopy(model), rank, ALPHA, 0.0, targets, kind=kind, **options)


def logps(model):
    return score_answers(model, ANSWERS, "shared").per_token


def gradients(model):
    logps(model).sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def moved(model):
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / 20)
    return model


def test_it_is_the_pissa_of_peft(tiny_model):
    """The same output and the same gradients at the start, and after a step."""
    settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", init_lora_weights="pissa",
                          task_type="CAUSAL_LM")  # fmt: skip
    theirs, own = get_peft_model(copy.deepcopy(tiny_model), settings).eval(), adapted(tiny_model)
    for model in (theirs, own):
        torch.testing.assert_close(logps(model), logps(tiny_model), rtol=1e-4, atol=1e-4)
    for _ in range(2):
        expected, found = gradients(theirs), gradients(own)
        assert expected.keys() == found.keys() and len(found) == 28
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
            for model in (theirs, own):
                value = model.get_parameter(name)
                value.data -= 0.01 * expected[name]
                value.grad = None
    torch.testing.assert_close(logps(own), logps(theirs), rtol=1e-3, atol=1e-3)


def test_it_begins_with_the_largest_singular_values(tiny_model):
    model = adapted(tiny_model, targets=["q_proj"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    part = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    whole, rest = layer.base_layer.weight, layer.base_layer.weight - part
    values = torch.linalg.svdvals(whole)
    torch.testing.assert_close(torch.linalg.svdvals(part)[:RANK], values[:RANK], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(rest)[:-RANK], values[RANK:], rtol=1e-4, atol=1e-5)
    assert torch.equal(whole, tiny_model.model.layers[0].self_attn.q_proj.weight), "the base stays as it is"


def test_a_fast_estimate_is_close_and_always_the_same(tiny_model):
    with torch.no_grad():
        # As in trained models, few singular values are large.
        left, values, right = torch.linalg.svd(tiny_model.model.layers[0].mlp.up_proj.weight, full_matrices=False)
        tiny_model.model.layers[0].mlp.up_proj.weight.copy_(left * values / 2.0 ** torch.arange(len(values)) @ right)
    exact, one, two = (adapted(tiny_model, kind) for kind in ("pissa", "pissa_niter_16", "pissa_niter_16"))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.default.weight"
    parts = [m.get_parameter(name.format("B")) @ m.get_parameter(name.format("A")) for m in (exact, one, two)]
    assert torch.equal(parts[1], parts[2])
    torch.testing.assert_close(parts[1], parts[0], rtol=1e-3, atol=1e-3)


def test_without_adapters_it_is_the_base_to_the_last_bit_and_again_itself(tiny_model):
    model = moved(adapted(tiny_model))
    now, trained = logps(model), [name for name, value in model.named_parameters() if value.requires_grad]
    assert not torch.allclose(now, logps(tiny_model), atol=1e-2)
    with without_adapters(model):
        assert torch.equal(logps(model), logps(tiny_model))
    assert torch.equal(logps(model), now)
    assert trained == [name for name, value in model.named_parameters() if value.requires_grad]
    assert all(".default." in name for name in trained)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_parts_cancel_before_they_are_rounded(tiny_model, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        expected = logps(tiny_model)
        found = logps(round_frozen(adapted(tiny_model), precision))
    assert float((found - expected).detach().abs().max()) < (1e-3 if precision == "bf16-mixed" else 1e-5)


def test_merged_it_is_a_plain_model_with_the_same_output(tiny_model):
    model = moved(adapted(tiny_model, whole=["norm"]))
    expected = logps(model)
    torch.testing.assert_close(logps(merged(copy.deepcopy(model))), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    common = {**FLOAT32, "lora": True, "lora_rank": RANK, "lora_kind": "pissa", "lr": 1e-2}
    return lambda algo="dpo", **options: train(algo, **{**common, "data": data_for(algo, tmp_path), **options})


@pytest.mark.parametrize(
    "options", [{}, {"quantize": "nf4"}, {"train_modules": "lm_head"}, {"new_tokens": "<x>"}], ids=str
)
def test_a_run_begins_at_its_reference_and_saves_an_adapter_of_twice_the_rank(run, tmp_path, options):
    if "quantize" in options:
        pytest.importorskip("bitsandbytes")
    done = run(**options, eval_fraction=0.3)
    assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-5)
    config = json.loads((done.model_path / "adapter_config.json").read_text())
    assert config["r"] == 2 * RANK and config["init_lora_weights"] is True
    saved = AutoPeftModelForCausalLM.from_pretrained(done.model_path, dtype=torch.float32).eval()
    status, said, told = cli("export", str(done.path), str(tmp_path / "merged"), "--merge")
    assert status == 0, said + told
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logps(plain), logps(saved), rtol=1e-3, atol=1e-3)
    assert torch.equal(logps(load_on_base(str(done.model_path), dtype=torch.float32).eval()), logps(saved))


def test_what_is_saved_is_what_was_trained(run, tiny_model):
    """At a learning rate of 0 that is the base."""
    done = run(lr=0.0)
    saved = AutoPeftModelForCausalLM.from_pretrained(done.model_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logps(saved), logps(tiny_model), rtol=1e-4, atol=1e-4)


def test_killed_and_resumed_it_is_the_unbroken_run(run, tmp_path):
    options = {"save_every": 2, "epochs": 2}
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
        ({"lora_dropout": 0.1}, "has no dropout"),
        ({"lora_rank": 64}, "singular values"),
        ({"lora_targets": "embed_tokens"}, "is for linear layers"),
        ({"tensor_parallel": 2, "devices": 2}, "reads whole matrices"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(run, options, said):
    with pytest.raises(ZooError, match=said):
        run(**options)


def test_a_rank_above_the_singular_values_of_a_matrix_is_told_before_anything_is_loaded(run, tiny_folder, monkeypatch):
    """The smallest matrix is named, by the model's path, also where others are large enough."""
    monkeypatch.setattr("zoo.training.execution.Execution", None)
    with pytest.raises(ZooError) as error:
        run(lora_rank=20)
    name = "model.layers.0.self_attn.k_proj"
    assert f"--lora-rank 20 is above the 16 singular values of {name}, which pissa" in error.value.message
    assert "Use --lora-rank 16 or less." in error.value.hint
    typed = ("train", "--algo", "dpo", "--model", tiny_folder, "--lora", "--lora-kind", "pissa", "--dry-run")
    status, said, error = cli(*typed, "--lora-rank", 20)
    assert status == 2 and f"of {name}" in " ".join(error.split()) and "Everything" not in said
    assert cli(*typed, "--lora-rank", 16)[0] == 0


def test_the_preflight_counts_both_adapters(tiny_model):
    step = Step(64, 8, 8, 2)
    one, two = (_of_model(tiny_model.config, Way("32-true", lora=True, rank=4, kind=kind), step)
                for kind in ("lora", "pissa"))  # fmt: skip
    assert two.weights - one.weights == one.gradients == two.gradients
