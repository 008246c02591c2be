"""Mixtures of experts: the routers' auxiliary loss is transformers', however a step is cut; frozen routers; balance."""

import json
import math

import pytest
import torch
from tiny_runs import FLOAT32, float32_flags, two_processes

from zoo.errors import ZooError
from zoo.libraries import adapters, experts
from zoo.libraries.pretrained import save
from zoo.models.experts import Balance, freeze_routers, watch
from zoo.models.loading import add_lora
from zoo.models.scoring import score_answers
from zoo.runs import Run
from zoo.testing import sweep
from zoo.testing.architectures import make
from zoo.testing.tiny import make_tokenizer, tiny_rows
from zoo.values.answers import answer_weights
from zoo.values.batches import batch_of
from zoo.values.loss import Loss
from zoo.values.types import Answers

KINDS = [
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "phimoe", "ernie4_5_moe", "jamba",
    "qwen3_next", "granitemoehybrid",
]  # fmt: skip
"""Architectures that have an auxiliary loss."""
COEFFICIENT = 0.5


def own_loss(model, answer):
    """The auxiliary loss that transformers computes for a text alone, with its gradient."""
    ids = torch.cat([answer.prompt, answer.completion])[None]
    return model(input_ids=ids, output_router_logits=True, use_cache=False).aux_loss


def losses(model, layout):
    """The auxiliary loss of each text of the sweep, scored together in a layout."""
    balance = Balance(model, COEFFICIENT).open()
    try:
        score_answers(model, sweep.texts(), layout, balance=10**9)
        return torch.cat([part.losses for part in balance.texts]), balance.take_metrics()
    finally:
        balance.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_auxiliary_loss_of_a_text_is_that_of_transformers(kind):
    model, told = make(kind), []
    if not isinstance(own_loss(model, sweep.texts()[0]), torch.Tensor):
        pytest.skip("this version of transformers does not compute it")
    found, _ = losses(model, "padded")
    torch.testing.assert_close(found, torch.stack([own_loss(model, one) for one in sweep.texts()]), rtol=1e-5, atol=0)
    watch(model, None, False, told.append)
    own = experts.auxiliary_coefficient(model)
    assert own is not None and f"added with the coefficient {own:g} (the model's own;" in told[0]


@pytest.fixture
def mixtral():
    return make("mixtral")


@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_it_and_the_loads_are_the_same_in_every_layout(mixtral, layout):
    expected, metrics = losses(mixtral, "padded")
    found, others = losses(mixtral, layout)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert others == pytest.approx(metrics)


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[0, 2], [3, 1]]], ids=["whole", "cut"])
def test_a_step_adds_it_with_the_weight_that_a_text_has_in_the_loss_however_it_is_cut(mixtral, parts, per_token):
    texts = sweep.texts()
    balance = Balance(mixtral, COEFFICIENT).open()
    total = 0
    for part in parts:
        batch = batch_of({"completion": Answers([texts[i] for i in part])})
        scored = score_answers(mixtral, batch.completion, "shared", balance=10**9)
        loss = Loss.per_token(-scored.per_token, scored.mask) if per_token else Loss.per_example(-scored.sum())
        total = total + loss.numerator + COEFFICIENT * balance.numerator(answer_weights(loss, batch))
    found = gradients(mixtral, total)
    balance.close()
    weights = [len(one.completion) if per_token else 1 for one in texts]
    own = -sum(row.sum() for row in sweep.plain_logps(mixtral, texts))
    own = own + COEFFICIENT * sum(w * own_loss(mixtral, one) for w, one in zip(weights, texts, strict=True))
    for name, gradient in gradients(mixtral, own).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_the_two_answers_of_a_pair_have_half_of_its_weight_each():
    texts = sweep.texts()
    pair = batch_of({"chosen": Answers(texts[:2]), "rejected": Answers(texts[2:])})
    weights = answer_weights(Loss.weighted(torch.zeros(2), torch.tensor([1.0, 3.0])), pair)
    assert [weights[id(one)] for one in texts] == [0.5, 1.5, 0.5, 1.5]


def test_even_loads_have_entropy_1_and_one_busy_expert_shows(mixtral):
    balance = Balance(mixtral, 0.0)
    balance.loads = torch.tensor([[5.0, 5, 5, 5], [20, 0, 0, 0]], dtype=torch.float64)
    assert balance.take_metrics() == pytest.approx({"router/load_entropy": 0.5, "router/busiest_share": 1.0})
    assert balance.take_metrics() == {}
    balance.close()


def test_nothing_is_heard_before_training_without_a_gradient_or_afterwards(mixtral):
    balance = Balance(mixtral, 0.0)
    score_answers(mixtral, sweep.texts(), "padded")
    balance.open()
    with torch.no_grad():
        score_answers(mixtral, sweep.texts(), "padded")
    assert not balance.texts
    balance.close()
    score_answers(mixtral, sweep.texts(), "padded")
    assert not balance.texts


@pytest.mark.parametrize("lora", [False, True])
def test_frozen_routers_are_not_trained(mixtral, lora):
    model = add_lora(mixtral, 2, 4.0, 0.0, "all-linear") if lora else mixtral
    freeze_routers(model)
    told = []
    watch(model, None, True, told.append)
    assert "the coefficient 0 (frozen routers;" in told[0]
    score_answers(model, sweep.texts(), "padded").sum().sum().backward()
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert trained and not any(".gate." in name for name in trained)


def test_what_a_model_does_not_have_is_refused_or_told():
    dense, told = make("llama"), []
    assert watch(dense, None, False, told.append) is None and told == []
    with pytest.raises(ZooError, match="LlamaForCausalLM has no routers"):
        watch(dense, 0.1, False, told.append)
    with pytest.raises(ZooError, match="--freeze-routers: LlamaForCausalLM has no routers"):
        freeze_routers(dense)
    deepseek = make("deepseek_v3")
    watch(deepseek, None, False, told.append)
    assert "no auxiliary loss is added, because the model has no auxiliary loss" in told[0]
    with pytest.raises(ZooError, match="has no auxiliary loss"):
        watch(deepseek, 0.1, False, told.append)
    assert losses(deepseek, "padded")[1]["router/busiest_share"] >= 0.25


# -- adapters ----------------------------------------------------------------------------------------------------------


def adapted_names(model):
    return {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if "lora_" in name}


def test_experts_get_adapters_when_they_are_named(mixtral):
    alone = add_lora(make("mixtral"), 2, 4.0, 0.0, ["experts"])
    shapes = {tuple(p.shape) for name, p in alone.named_parameters() if "lora_A" in name}
    assert len(shapes) == 2 and all(".experts." in name for name, p in alone.named_parameters() if p.requires_grad)
    both = add_lora(mixtral, 2, 4.0, 0.0, ["all-linear", "experts"])
    assert {"q_proj", "o_proj"} <= adapted_names(both) and any(
        ".experts." in n for n, p in both.named_parameters() if p.requires_grad
    )
    assert adapters.left_out(both) == []
    one = add_lora(make("mixtral"), 2, 4.0, 0.0, ["down_proj"])
    assert sum(p.requires_grad for p in one.parameters()) == 4, "lora_A and lora_B of each layer"


def test_experts_that_adapters_cannot_reach_are_refused(mixtral):
    with pytest.raises(ZooError, match="this model has no experts whose weights are one tensor"):
        add_lora(make("llama"), 2, 4.0, 0.0, ["experts"])
    with pytest.raises(ZooError, match="cannot have dropout"):
        add_lora(mixtral, 2, 4.0, 0.1, ["experts"])


@pytest.mark.parametrize(("kind", "target"), [("jamba", "dt_proj"), ("phimoe", "router")])
def test_an_adapter_that_would_never_be_trained_is_refused(kind, target):
    with pytest.raises(ZooError, match=f"An adapter on .*{target} would never be trained"):
        add_lora(make(kind), 2, 4.0, 0.0, [target])
    model = add_lora(make(kind), 2, 4.0, 0.0, "all-linear")
    assert target not in adapted_names(model)
    told = adapters.left_out(model)
    assert told[0].startswith(f"No adapters on {target}: ") and "peft passes over" not in told[0]
    assert "--lora-targets all-linear,experts reaches them" in told[1]


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny mixture of experts with a tokenizer."""
    from zoo.testing import architectures

    path, tokenizer = tmp_path_factory.mktemp("experts") / "moe", make_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        ends = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 1}
        patch.setitem(architectures.ARCHITECTURES, "mixtral", {**architectures.ARCHITECTURES["mixtral"], **ends})
        save(make("mixtral"), path)
    tokenizer.save_pretrained(path)
    return path


# Adam divides by the size of the gradient: where that is rounding alone, ε must be larger than it.
STEPS = {"epochs": 1, "batch_size": 3, "lr": 1e-3, "optimizer": "adamw(eps=1e-5)"}


def assert_two_processes_and_small_micro_batches_give_the_same(run, folder, rows, tmp_path):
    flags = float32_flags(**STEPS, micro_tokens=64, out=tmp_path / "two", devices=2, accelerator="cpu")
    done = two_processes(
        "train", "--algo", "sft", "--model", str(folder), "--data", str(rows), *flags, cwd=tmp_path,
        ZOO_CACHE=str(tmp_path / "cache-two"),
    )  # fmt: skip
    assert len(run.log_history) == 3
    assert [one.returncode for one in done] == [0, 0], done[0].stdout + done[0].stderr
    (other,) = (tmp_path / "two").iterdir()
    for first, second in zip(run.log_history, Run(other).log_history, strict=True):
        assert first.keys() == second.keys()
        assert [first[name] for name in first] == pytest.approx([second[name] for name in first], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("algo", "kind"), [("sft", "demonstration"), ("dpo", "preference")])
def test_the_balance_is_in_the_metrics_of_every_algorithm(folder, tmp_path, algo, kind, capsys):
    import zoo

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(kind, 8)))
    options = {"lora": True, "lora_targets": "all-linear,experts", "freeze_routers": True} if algo == "dpo" else {}
    run = zoo.train(algo=algo, model=str(folder), data=str(rows), out=str(tmp_path / "runs"), score="none",
                    **FLOAT32, **STEPS, **options)  # fmt: skip
    steps = [json.loads(one) for one in (run.path / "metrics.jsonl").read_text().splitlines()]
    first = next(one for one in steps if "router/load_entropy" in one)
    assert 0 < first["router/load_entropy"] <= 1 and 0.25 <= first["router/busiest_share"] <= 1
    assert first["router/aux_loss"] > 0 and math.isfinite(first["loss"])
    assert "Mixture of experts: the auxiliary loss of 2 routers" in capsys.readouterr().out
    if algo == "sft":
        assert_two_processes_and_small_micro_batches_give_the_same(run, folder, rows, tmp_path)
    else:
        again = adapters.load_on_base(str(run.path / "model"))
        assert any(".experts." in name for name, p in again.named_parameters() if p.requires_grad)
