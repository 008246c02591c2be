"""Output heads: log-probs are those of the model's own logits, whatever it does to them or adapts them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_runs import cli

from zoo.libraries import adapters, heads
from zoo.libraries.pretrained import load, save
from zoo.libraries.tiny import make_tiny
from zoo.models.loading import add_lora
from zoo.models.logps import Head
from zoo.models.scoring import check_head, plain_logps, score_answers
from zoo.values.types import Answer

ANSWERS = [Answer.of([3, 1, 4], [1, 5, 9]), Answer.of([3, 1, 4], [2, 6]), Answer.of([7], [3, 1, 4])]
SCALED = {
    "Llama": ({}, (1.0, 0.0)),
    "Cohere": ({"logit_scale": 0.3}, (0.3, 0.0)),
    "Granite": ({"logits_scaling": 8.0}, (1 / 8, 0.0)),
    "HyperCLOVAX": ({"logits_scaling": 0.1}, (0.1, 0.0)),
    "Gemma2": ({"final_logit_softcapping": 1.0}, (1.0, 1.0)),
    "RecurrentGemma": ({"logits_soft_cap": 0.5, "lru_width": 16}, (1.0, 0.5)),
    "xLSTM": ({"output_logit_soft_cap": 30.0}, (1.0, 30.0)),
    "FalconH1": (
        {"lm_head_multiplier": 0.1, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 8,
         "mamba_n_groups": 1, "mamba_chunk_size": 16}, (0.1, 0.0),
    ),
}  # fmt: skip
"""Architecture → options, and what it multiplies its logits by and caps them at."""


def gap(model, answers=ANSWERS, layout="padded"):
    """The largest difference of a log-prob from the model's own logits."""
    with torch.no_grad():
        found = score_answers(model, answers, layout).per_token
    own = [plain_logps(model, answer) for answer in answers]
    return max(float((found[i, : len(row)] - row).abs().max()) for i, row in enumerate(own))


@pytest.mark.parametrize("cls", [cls for cls in SCALED if hasattr(transformers, f"{cls}Config")])
def test_scales_and_caps_are_those_of_the_model_whatever_its_configuration_calls_them(cls):
    options, expected = SCALED[cls]
    model = make_tiny(cls, **options)
    head = Head.of(model)
    assert (head.scale, head.softcap) == pytest.approx(expected, rel=1e-6)
    assert gap(model) < 1e-5 and check_head(model, ANSWERS, 1e-4) == ""


def test_a_scale_is_read_from_weights_in_bfloat16_too():
    head = Head.of(make_tiny("Cohere", logit_scale=0.3).bfloat16())
    assert head.scale == pytest.approx(0.3, rel=1e-6)


def shifted():
    """A model whose logits no scale or cap explains: each word has an offset of its own."""
    model = make_tiny()

    def forward(*args, former=model.forward, **options):
        found = former(*args, **options)
        found.logits = found.logits + torch.linspace(-3, 3, found.logits.shape[-1])
        return found

    model.forward = forward
    return model


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_other_logits_are_taken_from_the_models_own_forward_pass(layout):
    model = shifted()
    assert Head.of(model) is None and "makes logits in a way of its own" in check_head(model, ANSWERS, 1e-4)
    assert gap(model, layout=layout) < 1e-5
    score_answers(model, ANSWERS, layout).sum().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    own_sum(model).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def own_sum(model):
    """Σ log p of the answers' tokens, from whole logits."""
    total = 0
    for answer in ANSWERS:
        ids = torch.cat([answer.prompt, answer.completion])
        log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None])
        total = total + log_p[len(answer.prompt) - 1 :].sum()
    return total


def test_a_head_that_was_read_wrong_is_not_trusted_once_log_probs_differ_from_the_models_own():
    model = make_tiny()
    heads._MEASURED[model] = (0.5, 0.0)
    note = check_head(model, ANSWERS, 1e-3)
    assert note.startswith("Log-probs of LlamaForCausalLM differ by ") and "its own forward pass scores it" in note
    assert Head.of(model) is None and gap(model) < 1e-5


# -- adapters on the head and on embeddings ----------------------------------------------------------------------------


def adapted(targets, tied=False, dropout=0.0):
    """A model with adapters that change its output."""
    model = add_lora(make_tiny(tie_word_embeddings=tied), 2, 4.0, dropout, targets)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "q_proj"], ["embed_tokens"]])
def test_an_adapter_on_the_head_or_the_embeddings_is_trained(targets, tied):
    model = adapted(targets, tied)
    assert gap(model, layout="shared") < 1e-5
    score_answers(model, ANSWERS, "shared").sum().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    own_sum(model).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
            assert found[name].abs().max() > 0, name


def test_with_its_adapter_off_the_head_is_the_one_before():
    model = adapted(["lm_head"])
    with adapters.without_adapters(model), torch.no_grad():
        found = score_answers(model, ANSWERS, "padded").per_token
    torch.testing.assert_close(found, score_answers(make_tiny(), ANSWERS, "padded").per_token.detach())


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_on_tied_weights_is_merged_to_the_same_function(target, tmp_path):
    model = adapted([target], tied=True)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        merged = adapters.merged(model)
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        save(merged, tmp_path)
        again = load("AutoModelForCausalLM", tmp_path, dtype=torch.float32)
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_merge_leaves_tied_weights_tied_where_no_adapter_is_on_them():
    merged = adapters.merged(adapted(["q_proj"], tied=True))
    assert merged.config.tie_word_embeddings
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight


def test_a_run_trains_adapters_on_head_and_embeddings_and_its_merged_folder_is_the_same_model(tiny_folder, tmp_path):
    """Cases of users: the adapter of the head stayed as it began, and the merged model was another one."""
    import zoo

    rows = [json.dumps({"prompt": f"Say {n}?", "completion": f"It is {n}."}) for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    run = zoo.train(algo="sft", model=str(tiny_folder), data=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "runs"),
                    lora=True, lora_targets="lm_head,embed_tokens", max_steps=2, lr=1e-2, warmup=0.0, score="none",
                    batch_size=2, precision="32-true", quiet=True)  # fmt: skip
    trained = load_file(run.path / "model" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in trained} >= {"lm_head"} and len(trained) == 4
    assert all(value.abs().max() > 1e-3 for value in trained.values()), "all are moved from where they began"
    status, out, _ = cli("export", str(run.path), str(tmp_path / "merged"), "--merge")
    assert status == 0 and "Embedding and head have weights of their own now" in out
    ids = torch.tensor([list(b"Say 1? It is 1.")]) % 250
    with torch.no_grad():
        expected = adapters.load_on_base(str(run.path / "model")).eval()(input_ids=ids).logits
        again = load("AutoModelForCausalLM", tmp_path / "merged", dtype=torch.float32)
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        plain = load("AutoModelForCausalLM", tiny_folder, dtype=torch.float32)
        assert (plain(input_ids=ids).logits - expected).abs().max() > 1e-2
