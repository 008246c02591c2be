"""rsLoRA, DoRA and LoRA+: what the papers' formulas say, trained, saved, switched off and merged."""

import copy
import json
import math

import pytest
import torch
from tiny_runs import FLOAT32, data_for, trainer

from zoo.errors import ZooError
from zoo.libraries.adapters import load_on_base, merged, without_adapters
from zoo.models.loading import add_lora
from zoo.models.precision import round_frozen
from zoo.models.scoring import score_answers
from zoo.options.config import TrainConfig
from zoo.training.step.schedule import parameter_groups
from zoo.values.types import Answer

KINDS = ("lora", "rslora", "dora", "dora+rslora")
RANK, ALPHA = 4, 8.0
ANSWERS = [Answer.of([1, 5, 7], [8, 9, 30]), Answer.of([1, 5, 7], [9, 9, 4, 11])]


def adapted(tiny_model, kind):
    """Adapters that change the output, and the plain layers before."""
    plain = copy.deepcopy(tiny_model)
    model = add_lora(copy.deepcopy(tiny_model), RANK, ALPHA, 0.0, ["q_proj"], kind=kind)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / 5)
    return model, plain


def by_the_papers(model, plain, kind):
    """The plain model with W + s BA, or with m (W + s BA) / ||W + s BA|| for each row, in the place of its weights."""
    scale = ALPHA / (math.sqrt(RANK) if "rslora" in kind else RANK)
    parameters = dict(model.named_parameters())
    for number, layer in enumerate(plain.model.layers):
        name = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        A, B = (parameters[f"{name}.lora_{which}.default.weight"] for which in "AB")
        weight = layer.self_attn.q_proj.weight.data + scale * B.detach() @ A.detach()
        if "dora" in kind:
            lengths = parameters[f"{name}.lora_magnitude_vector.default.weight"].detach()
            weight = lengths[:, None] * weight / weight.norm(dim=1, keepdim=True)
        layer.self_attn.q_proj.weight.data = weight
    return plain


def logps(model):
    return score_answers(model, ANSWERS, "shared").per_token


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_that_of_the_paper_before_and_after_merging(tiny_model, kind):
    model, plain = adapted(tiny_model, kind)
    before = logps(plain).detach()
    expected = logps(by_the_papers(model, copy.deepcopy(plain), kind)).detach()
    torch.testing.assert_close(logps(model).detach(), expected, rtol=1e-5, atol=1e-5)
    with without_adapters(model):
        assert torch.equal(logps(model).detach(), before)
    torch.testing.assert_close(logps(merged(model)).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_what_the_next_pass_computes(tiny_model, kind, training):
    """peft keeps the lengths of rows from one pass to the next in a model that is not in training mode."""
    model, plain = adapted(tiny_model, kind)
    model.train(training)
    logps(model).sum().backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                assert value.grad is not None and bool(value.grad.abs().sum() > 0)
                value.sub_(0.05 * value.grad.sign())
    expected = logps(by_the_papers(model, plain, kind)).detach()
    torch.testing.assert_close(logps(model).detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rounded_base_computes_the_same_under_autocast(tiny_model, kind):
    model, _ = adapted(tiny_model, kind)
    with torch.autocast("cpu", torch.bfloat16):
        wide = logps(model).detach()
        rounded = logps(round_frozen(model, "bf16-mixed")).detach()
    if "dora" in kind:
        # The lengths of the rows are those of the rounded matrices.
        torch.testing.assert_close(wide, rounded, rtol=0.02, atol=0.02)
    else:
        assert torch.equal(wide, rounded)


def test_matrices_b_have_a_rate_of_their_own(tiny_model):
    model, _ = adapted(tiny_model, "lora")
    groups = parameter_groups({"policy": model}, TrainConfig(lr=1e-4, lora=True, lora_plus=16.0))
    rates = {name: group.lr for group in groups for name in group.names}
    assert len(rates) == 4 and all(rate == (1.6e-3 if "lora_B" in name else 1e-4) for name, rate in rates.items())
    (group,) = parameter_groups({"policy": model}, TrainConfig(lr=1e-4, lora=True))
    assert group.lr == 1e-4 and len(group.names) == 4


@pytest.fixture
def run(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    common = {**FLOAT32, "lora": True, "lora_rank": RANK, "lr": 1e-2, "data": data_for("dpo", tmp_path)}
    return lambda **options: train("dpo", **{**common, **options})


@pytest.mark.parametrize("options", [{"lora_kind": "dora+rslora"}, {"lora_plus": 16.0}], ids=str)
def test_a_run_begins_at_its_reference_and_what_it_saves_is_what_it_trained(run, options):
    plain, done = run(), run(eval_fraction=0.3, **options)
    losses = [json.loads(line)["loss"] for line in (done.path / "metrics.jsonl").read_text().splitlines()
              if "loss" in json.loads(line)]  # fmt: skip
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    files = [(one.model_path / "adapter_model.safetensors").read_bytes() for one in (plain, done)]
    assert files[0] != files[1]
    saved = load_on_base(str(done.model_path), dtype=torch.float32).eval()
    expected = logps(merged(copy.deepcopy(saved))).detach()
    torch.testing.assert_close(logps(saved).detach(), expected, rtol=1e-4, atol=1e-4)


def test_dora_needs_whole_matrices(run):
    with pytest.raises(ZooError, match="reads whole matrices") as error:
        run(lora_kind="dora", quantize="nf4")
    assert "--lora-kind lora, rslora or pissa, or leave out --quantize" in error.value.hint
