"""Matrices that are not trained are kept in bfloat16 where that changes nothing, or where it is asked for."""

import copy
import json

import pytest
import torch
from tiny_runs import FLOAT32, data_for, trainer

from zoo.libraries.adapters import merged
from zoo.libraries.rounding import RoundedLinear
from zoo.models.precision import choose_base, round_frozen
from zoo.models.scoring import score_answers
from zoo.runs import Run
from zoo.values.types import Answer

ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]
MATRIX = "base_model.model.model.layers.0.mlp.up_proj.base_layer"


def learned(model, mixed=True):
    """Log-probs and the gradients of the adapters."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logps = score_answers(model, ANSWERS, "shared").per_token
        logps.sum().backward()
    return [logps.detach(), *(value.grad for value in model.parameters() if value.requires_grad)]


@pytest.mark.parametrize(
    ("wanted", "precision", "dtype"),
    [
        ("auto", "bf16-mixed", "bfloat16"), ("auto", "32-true", "float32"), ("auto", "bf16-true", "bfloat16"),
        ("float32", "bf16-mixed", "float32"), ("bfloat16", "32-true", "bfloat16"),
    ],
)  # fmt: skip
def test_auto_rounds_where_it_changes_nothing(wanted, precision, dtype):
    assert choose_base(wanted, precision)[0] == getattr(torch, dtype)


def test_under_bf16_mixed_a_rounded_base_teaches_the_same_to_the_last_bit(adapted):
    plain = learned(adapted)
    round_frozen(adapted, "bf16-mixed")
    assert isinstance(adapted.get_submodule(MATRIX), RoundedLinear)
    rounded = learned(adapted)
    assert all(torch.equal(one, other) for one, other in zip(plain, rounded, strict=True))
    kinds = {name: value.dtype for name, value in adapted.named_parameters()}
    trained = {value.dtype for value in adapted.parameters() if value.requires_grad}
    assert kinds[f"{MATRIX}.weight"] == torch.bfloat16 and trained == {torch.float32}
    assert kinds["base_model.model.model.embed_tokens.weight"] == torch.float32


def test_in_float32_a_rounded_base_computes_what_its_rounded_weights_say(adapted):
    rounded = round_frozen(copy.deepcopy(adapted), "32-true", "bfloat16")
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "base_layer" in name:
                value.copy_(value.bfloat16())
    for one, other in zip(learned(rounded, mixed=False), learned(adapted, mixed=False), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_nothing_is_rounded_in_float32_or_when_it_is_not_wanted(adapted):
    for precision, wanted in (("32-true", "auto"), ("bf16-mixed", "float32")):
        round_frozen(adapted, precision, wanted)
        assert {value.dtype for value in adapted.parameters()} == {torch.float32}


def test_adapters_are_merged_into_wide_weights(adapted):
    rounded = round_frozen(copy.deepcopy(adapted), "bf16-mixed")
    expected = learned(rounded, mixed=False)[0]
    plain = merged(rounded)
    assert {value.dtype for value in plain.parameters()} == {torch.float32}
    assert not any(isinstance(module, RoundedLinear) for module in plain.modules())
    torch.testing.assert_close(score_answers(plain, ANSWERS, "shared").per_token, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    common = {**FLOAT32, "precision": "bf16-mixed", "lora": True, "batch_size": 4, "data": data_for("dpo", tmp_path)}
    return lambda **options: train("dpo", **{**common, **options})


def losses(run):
    return [row["loss"] for row in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())]


def test_a_run_says_which_type_it_took_and_why_and_ends_the_same(run, capsys):
    auto, wide = run(quiet=False), run(base_dtype="float32", quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "Frozen matrices bfloat16: with bf16-mixed, their products are the same to the last bit." in said
    assert "Frozen matrices float32: set by keyword argument." in said
    # The bits are compared above, for one pass. Over a run they hold only where the machine repeats its own: one with
    # two threads once gave another last bit in bfloat16, and AdamW makes that bit of a small gradient a whole step.
    assert losses(auto) == pytest.approx(losses(wide), abs=1e-3)


def test_in_float32_it_changes_the_run_that_asks_for_it(run):
    rounded, wide = run(precision="32-true", base_dtype="bfloat16"), run(precision="32-true")
    assert losses(rounded) != losses(wide) == losses(run(precision="32-true", base_dtype="float32"))
    assert Run(rounded.path).config["base_dtype"] == "bfloat16"


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_a_reference_that_training_starts_from_is_not_rounded_beside_a_policy_that_is_trained_whole(run, cache):
    options = {"lora": False, "precision": "32-true", "reference_cache": cache, "lr": 1e-3, "max_steps": 2}
    assert losses(run(base_dtype="bfloat16", **options)) == losses(run(**options))
