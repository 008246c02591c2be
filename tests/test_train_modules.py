"""Modules that are trained as a whole beside adapters: reached, saved, switched off, merged."""

import copy
import math

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny_runs import FLOAT32, cli, data_for, losses, trainer
from transformers import AutoModelForCausalLM

from zoo.errors import ZooError
from zoo.libraries.adapters import left_out, load_on_base, merged, without_adapters
from zoo.libraries.heads import output_head
from zoo.libraries.whole_modules import told
from zoo.models.loading import add_lora
from zoo.models.memory import Step, Way, _of_model
from zoo.models.precision import round_frozen
from zoo.models.scoring import score_answers
from zoo.options.config import TrainConfig
from zoo.training.step.schedule import parameter_groups
from zoo.values.types import Answer

ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]


def adapted(model, names, targets="all-linear"):
    return add_lora(copy.deepcopy(model), 4, 8.0, 0.0, targets, whole=names)


def changed(model):
    """The model with other values in all that is trained."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / 5)
    return model


def logps(model):
    with torch.no_grad():
        return score_answers(model, ANSWERS, "shared").per_token


def test_what_is_reached_is_told(tiny_model):
    model = adapted(tiny_model, ["lm_head", "norm", "input_layernorm"])
    trained = {name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name}
    assert trained == {
        "base_model.model.lm_head.modules_to_save.default.weight",
        "base_model.model.model.norm.modules_to_save.default.weight",
        *(
            f"base_model.model.model.layers.{number}.input_layernorm.modules_to_save.default.weight"
            for number in (0, 1)
        ),
    }
    weights = tiny_model.lm_head.weight.numel() + 3 * 32
    assert told(model) == [
        f"All weights of 2 input_layernorm, norm, lm_head are trained beside the adapters: {weights:,}.",
        "Embedding and head, which shared their weights, have weights of their own from now on.",
    ]
    assert not left_out(model)


@pytest.mark.parametrize(
    ("names", "targets", "said"),
    [
        (["lm_hed"], "all-linear", "lm_hed names no module of LlamaForCausalLM .* Did you mean 'lm_head'?"),
        (["mlp"], "all-linear", "mlp names no module"),
        (["q_proj"], ["q_proj", "v_proj"], "trained as a whole and have an adapter"),
    ],
    ids=str,
)
def test_what_cannot_be_reached_is_told(tiny_model, names, targets, said):
    with pytest.raises(ZooError, match=said):
        adapted(tiny_model, names, targets)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("names", [["lm_head"], ["embed_tokens", "norm"], ["lm_head", "embed_tokens"], ["q_proj"]])
def test_without_adapters_the_model_is_the_one_before_to_the_last_bit(tiny_model, names, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        before = logps(tiny_model)
        model = changed(round_frozen(adapted(tiny_model, names), precision))
        assert not torch.allclose(logps(model), before, atol=1e-2)
        with without_adapters(model):
            assert torch.equal(logps(model), before)


def test_a_head_that_is_a_copy_is_read_like_any_other(tiny_model):
    """With the same gradients as where logits are made whole."""
    model = changed(adapted(tiny_model, ["lm_head"]))
    assert output_head(model).is_plain
    with without_adapters(model):
        assert output_head(model).layer.weight is model.get_base_model().model.embed_tokens.weight
    score_answers(model, ANSWERS, "padded").per_token.sum().backward()
    head = model.get_base_model().lm_head.modules_to_save["default"].weight
    found, head.grad = head.grad, None
    for answer in ANSWERS:
        ids = torch.cat([answer.prompt, answer.completion])
        rows = torch.log_softmax(model(input_ids=ids[None]).logits[0, len(answer.prompt) - 1 : -1], -1)
        rows.gather(-1, answer.completion[:, None]).sum().backward()
    torch.testing.assert_close(found, head.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["down_proj", "norm"]])
def test_merged_it_is_a_plain_model_with_the_same_output(tiny_model, tmp_path, names):
    model = changed(adapted(tiny_model, names))
    expected = logps(model)
    merged(model).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logps(again), expected, rtol=1e-4, atol=1e-4)
    assert again.config.tie_word_embeddings is (names == ["down_proj", "norm"])


def test_lora_plus_groups_weights_as_peft_does(tiny_model):
    """Beside matrices B, vectors have the faster rate."""
    from peft.optimizers import create_loraplus_optimizer

    model = adapted(tiny_model, ["lm_head", "norm"])
    own = parameter_groups({"policy": model}, TrainConfig(lr=1e-4, lora=True, lora_plus=16.0))
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16.0)
    rates = {id(value): group.lr for group in own for value in group.parameters}
    assert rates == {id(value): group["lr"] for group in theirs.param_groups for value in group["params"]}


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    common = {**FLOAT32, "lora": True, "lora_rank": 4, "lr": 1e-2}
    return lambda algo="dpo", **options: train(algo, **{**common, "data": data_for(algo, tmp_path), **options})


def test_a_run_begins_at_its_reference_which_stays(run, tiny_model, tiny_folder, tmp_path, capsys):
    done = run(train_modules="lm_head,norm", reference_cache="off", epochs=2, quiet=False)
    assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-5)
    said = capsys.readouterr().out
    assert "All weights of norm, lm_head are trained beside the adapters: " in " ".join(said.split())
    saved = load_on_base(str(done.model_path), dtype=torch.float32).eval()
    peft = AutoPeftModelForCausalLM.from_pretrained(done.model_path, dtype=torch.float32).eval()
    assert torch.equal(logps(saved), logps(peft)) and not torch.allclose(logps(saved), logps(tiny_model), atol=1e-2)
    with without_adapters(saved):
        assert torch.equal(logps(saved), logps(tiny_model))
    status, told, _ = cli("export", str(done.path), str(tmp_path / "merged"), "--merge")
    assert status == 0 and "weights of their own" in told
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logps(plain), logps(saved), rtol=1e-4, atol=1e-4)


def test_scores_of_the_reference_are_those_of_a_run_without(run):
    """The reference is the base in both, so its first rewards and losses are equal; later they are not."""
    one, other = run(), run(train_modules="lm_head")
    assert losses(one)[0] == pytest.approx(losses(other)[0], abs=1e-6) and losses(one)[-1] != losses(other)[-1]


def test_new_tokens_may_have_their_rows_in_modules_that_are_trained_as_a_whole(run):
    done = run("sft", train_modules="embed_tokens,lm_head", new_tokens="<x>")
    saved = load_on_base(str(done.model_path), dtype=torch.float32)
    assert saved.get_base_model().get_input_embeddings().weight.shape[0] > 30
    again = run("sft", model=str(done.path))
    assert losses(again)[0] < losses(done)[0]


def test_new_tokens_need_both_ends(run):
    with pytest.raises(ZooError, match="names one of the two") as error:
        run("sft", train_modules="lm_head", new_tokens="<x>")
    assert "--train-modules embed_tokens,lm_head" in error.value.hint


def test_without_adapters_the_option_is_told(run, capsys):
    run("sft", lora=False, train_modules="lm_head", quiet=False)
    assert "--train-modules has no effect: without --lora all weights are trained" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("options", [{"quantize": "nf4"}, {"quantize": "int8"}, {"base_dtype": "bfloat16"}], ids=str)
def test_a_copy_begins_as_its_original_where_other_matrices_are_rounded(run, options):
    if "quantize" in options:
        pytest.importorskip("bitsandbytes")
    done = run(train_modules="down_proj,lm_head", **options)
    assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-5)
    saved = load_on_base(str(done.model_path), dtype=torch.float32).eval()
    torch.testing.assert_close(logps(merged(copy.deepcopy(saved))), logps(saved), rtol=1e-4, atol=1e-4)


def test_the_preflight_counts_what_is_trained(tiny_model):
    step, names = Step(64, 8, 8, 2), ("lm_head", "norm")
    plain, more = (
        _of_model(tiny_model.config, Way("32-true", lora=True, whole=",".join(given)), step) for given in ((), names)
    )
    added = 4 * (tiny_model.lm_head.weight.numel() + 32)
    assert more.gradients - plain.gradients == added and more.weights - plain.weights == added
