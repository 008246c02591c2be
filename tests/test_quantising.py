"""Matrices that are not trained are kept in 4 or 8 bits, and merged into full weights."""

import copy
import json
import math

import pytest
import torch
from tiny_runs import FLOAT32, cli, data_for, float32_flags, trainer, two_processes

from zoo.errors import ZooError
from zoo.libraries.adapters import load_on_base, merged
from zoo.libraries.pretrained import load
from zoo.libraries.quantising import QUANTISED, QuantisedLinear, quantise, quantise_linear, quantised_in
from zoo.models.memory import Step, Way, _of_model
from zoo.models.names import Source
from zoo.models.precision import round_frozen
from zoo.models.scoring import score_answers
from zoo.rewards.reward_model import RewardModel
from zoo.runs import Run
from zoo.values.types import Answer

bitsandbytes = pytest.importorskip("bitsandbytes")

ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]
PROMPTS = [{"prompt": "one"}, {"prompt": "blue moon"}]
SHARE = {"nf4": 0.26, "int8": 0.51}
"""Bytes of quantised weights, scales and all, over those of bfloat16."""


def frozen_layer(outputs=96, inputs=256, bias=True):
    torch.manual_seed(3)
    return torch.nn.Linear(inputs, outputs, bias).requires_grad_(False)


def computed(layer, dtype=torch.float32, mixed=False):
    """Output and gradient of the input."""
    given = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = layer(given)
    output.float().square().sum().backward()
    return output.detach(), given.grad


@pytest.mark.parametrize("kind", QUANTISED)
def test_packed_weights_take_few_bytes(kind):
    layer = frozen_layer(576, 1536, bias=False)
    count = layer.weight.numel()
    quantise_linear(layer, kind)
    assert layer.size / (2 * count) <= SHARE[kind]


def test_four_bits_are_the_layer_of_bitsandbytes():
    """Its own layer, with the same options: QLoRA's."""
    own, layer = frozen_layer(), frozen_layer()
    options = {"quant_type": "nf4", "compress_statistics": True, "requires_grad": False}
    other = bitsandbytes.nn.Linear4bit(256, 96, compute_dtype=torch.float32)
    other.weight = bitsandbytes.nn.Params4bit(layer.weight.data.clone(), **options)
    other.bias = layer.bias
    other = other.to("cpu")
    quantise_linear(own, "nf4")
    for one, another in zip(computed(own), computed(other), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-6, atol=1e-6)


def test_the_levels_of_four_bits_are_those_of_the_paper():
    """QLoRA, arXiv:2305.14314, appendix E: the 16 values of NF4, times the largest of 64 weights."""
    levels = torch.tensor([
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ])  # fmt: skip
    weight = levels.repeat(4).reshape(1, 64).repeat(256, 1)
    packed, scales = quantise(weight, "nf4")
    torch.testing.assert_close(scales.widen(packed, torch.float32), weight, rtol=0, atol=1e-6)


def test_eight_bits_round_each_row_to_its_127th_parts():
    weight = frozen_layer().weight.data.half().float()
    packed, scales = quantise(weight, "int8")
    parts = weight.abs().amax(1, keepdim=True) / 127
    wide = scales.widen(packed, torch.float32)
    torch.testing.assert_close(wide / parts, (wide / parts).round(), rtol=0, atol=1e-3)
    assert bool(((wide - weight).abs() <= 0.501 * parts).all())


@pytest.mark.parametrize("kind", QUANTISED)
def test_products_are_those_of_the_widened_weights_in_the_type_that_is_computed_in(kind):
    own, plain = frozen_layer(), frozen_layer()
    quantise_linear(own, kind)
    plain.weight.data = own.scales.widen(own.weight, torch.float32)
    for mixed in (False, True):
        for one, other in zip(computed(own, mixed=mixed), computed(plain, mixed=mixed), strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert computed(own, torch.bfloat16)[1].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_copy_in_another_type_keeps_its_packed_weights(kind):
    layer = frozen_layer()
    quantise_linear(layer, kind)
    expected = layer.scales.widen(layer.weight, torch.float32)
    again = copy.deepcopy(layer).to(torch.bfloat16)
    assert torch.equal(again.scales.widen(again.weight, torch.float32), expected) and again.bias.dtype == torch.bfloat16


@pytest.fixture
def packed(adapted):
    return round_frozen(adapted, "32-true", "nf4")


def logps(model):
    return score_answers(model, ANSWERS, "shared").per_token


def test_adapters_are_trained_and_merged_into_full_weights(packed):
    logps(packed).sum().backward()
    trained = [value for value in packed.parameters() if value.requires_grad]
    assert trained and all(value.grad is not None and value.dtype == torch.float32 for value in trained)
    layers = [layer for layer in packed.modules() if isinstance(layer, QuantisedLinear)]
    assert len(layers) == 10 and packed.get_base_model().get_output_embeddings().weight.dtype == torch.float32
    expected = logps(packed).detach()
    plain = merged(packed)
    assert {value.dtype for value in plain.parameters()} == {torch.float32} and not list(quantised_in(plain))
    torch.testing.assert_close(logps(plain).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_four_bits_leave_out_keys_and_values_that_heads_share(adapted, precision, kind):
    model = round_frozen(adapted, precision, kind)
    whole = {name.split(".")[-2] for name, layer in model.named_modules()
             if name.endswith("base_layer") and not isinstance(layer, QuantisedLinear)}  # fmt: skip
    assert whole == ({"k_proj", "v_proj"} if kind == "nf4" else set())
    left = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    layer = model.get_base_model().model.layers[0].self_attn.k_proj.base_layer
    assert layer.weight.dtype == (left if kind == "nf4" else torch.int8)


def test_without_shared_heads_four_bits_take_all(tiny_model):
    tiny_model.config.num_key_value_heads = tiny_model.config.num_attention_heads
    round_frozen(tiny_model.requires_grad_(False), "32-true", "nf4")
    assert len(list(quantised_in(tiny_model))) == 14


def test_a_model_without_numbers_counts_them_packed(tiny_model):
    nf4, wide = (_of_model(tiny_model.config, Way("32-true", kind, lora=True, rank=2), Step(64, 8, 8, 2))
                 for kind in ("nf4", "float32"))  # fmt: skip
    linear = sum(value.numel() for name, value in tiny_model.model.layers.named_parameters()
                 if value.ndim == 2 and not {"k_proj", "v_proj"} & set(name.split(".")))  # fmt: skip
    assert wide.weights - nf4.weights == pytest.approx(linear * (4 - 0.52), rel=0.02)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)

    def start(algo="dpo", **options):
        return train(algo, **{**FLOAT32, "lora": True, "quantize": "nf4", "data": data_for(algo, tmp_path), **options})

    return start


def losses(run):
    return [row["loss"] for row in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())]


def test_a_run_begins_at_its_reference_and_is_saved_and_loaded_anywhere(run, capsys):
    whole = run(epochs=2, lr=1e-2, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    told = "Frozen matrices nf4: set by keyword argument. Embeddings, norms and heads (float32) are not quantised, nor"
    assert told in said and "nf4, the others" not in said
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-5), "the reference is not the quantised start"
    adapters = load_on_base(str(whole.model_path), dtype=torch.float32).eval()
    assert not list(quantised_in(adapters))
    assert cli("export", whole.path, whole.path.parent / "merged", "--merge")[0] == 0
    plain = load("AutoModelForCausalLM", whole.path.parent / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(logps(plain).detach(), logps(adapters).detach(), rtol=1e-4, atol=1e-4)


def test_a_frozen_role_is_quantised_beside_a_policy_that_is_trained_whole(run, tiny_folder):
    done = run(lora=False, reference=str(tiny_folder), max_steps=2)
    plain = run(lora=False, quantize=None, reference=str(tiny_folder), max_steps=2)
    assert losses(plain)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses(done)[0] != pytest.approx(math.log(2), abs=1e-3), "the reference is not quantised"


def test_a_reward_model_whose_adapters_read_whole_matrices_is_packed_as_the_merged_one(tmp_path, tiny_folder):
    data = data_for("dpo", tmp_path)
    made = trainer(tmp_path, tiny_folder)("rm", lora=True, lora_kind="dora", lr=1e-2, data=data)
    assert cli("export", made.path, tmp_path / "merged", "--merge")[0] == 0
    scores = [
        RewardModel(Source("reward", folder), torch.device("cpu"), base_dtype="nf4")(["red cat", "two dogs"], PROMPTS)
        for folder in (made.model_path, tmp_path / "merged")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and scores[0][0] != scores[0][1]


def test_a_reference_that_training_begins_at_is_whole_beside_a_reward_model_that_is_quantised(
    tmp_path, tiny_folder, capsys
):
    train, data = trainer(tmp_path, tiny_folder), data_for("dpo", tmp_path)
    reward = str(train("rm", data=data, lr=1e-2).path)
    options = {"data": data, "reward": reward, "kl_coef": 0.1, "max_steps": 1, "batch_size": 8, "max_new_tokens": 4}
    done = train("ppo", quantize="nf4", quiet=False, **options)
    assert "The reference is not quantised: it must equal the weights" in " ".join(capsys.readouterr().out.split())
    kl = [row["kl"] for row in done.log_history if "kl" in row]
    assert kl and kl[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("algo", "options", "said"),
    [
        ("sft", {"lora": False}, "this run trains all that it has"),
        ("dpo", {"lora": False}, "the reference.s, must equal the weights"),
        (
            "dpo",
            {"lora": False, "reference_cache": "off"},
            "the reference.s, must equal the weights",
        ),
        ("sft", {"strategy": "fsdp"}, "cannot be shared out"),
        ("sft", {"quantize": "int4"}, "quantize"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(run, algo, options, said):
    with pytest.raises(ZooError, match=said) as error:
        run(algo, **options)
    assert error.value.hint


def test_without_the_package_the_command_that_installs_it_is_told(run, monkeypatch):
    monkeypatch.setattr("zoo.options.checks.find_spec", lambda name: None)
    with pytest.raises(ZooError, match="needs bitsandbytes") as error:
        run("sft")
    assert error.value.hint == "pip install bitsandbytes"


def test_a_model_without_linear_layers_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64))
    with pytest.raises(ZooError, match="no frozen linear layer"):
        round_frozen(model.requires_grad_(False), "32-true", "nf4")


@pytest.mark.long
def test_two_processes_with_copies_of_the_packed_matrices_make_the_run_of_one(run, tmp_path, tiny_folder):
    options = {"lr": 1e-3, "optimizer": "adamw(eps=1e-5)", "epochs": 1, "accelerator": "cpu", "micro_tokens": 60}
    data = data_for("dpo", tmp_path)
    single = run(**options, data=data)
    flags = float32_flags(**options, quantize="nf4", out=tmp_path / "two", devices=2)
    typed = ("train", "--algo", "dpo", "--model", str(tiny_folder), "--data", data, "--lora", *flags)
    for done in two_processes(*typed, cwd=tmp_path, ZOO_CACHE=str(tmp_path / "cache-two")):
        assert done.returncode == 0, done.stdout + done.stderr
    double = Run(next((tmp_path / "two").iterdir()))
    assert losses(double) == pytest.approx(losses(single), rel=1e-5)
