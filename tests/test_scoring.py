"""Scores do not depend on how answers lie in rows."""

import pytest
import torch
import transformers

from zoo.models.layout import LAYOUTS
from zoo.models.logps import Head
from zoo.models.precision import round_frozen
from zoo.models.scoring import attention_window, balance_of, choose_layout, score_answers, split
from zoo.testing.tiny import make_model
from zoo.values.types import Answer

ALWAYS_SHARE = 10**9


def ragged():
    """Ragged prompts, several answers to one, an empty prompt, holes in masks, one token, duplicates, nothing."""
    generator = torch.Generator().manual_seed(3)

    def ids(count):
        return torch.randint(0, 250, (count,), generator=generator).tolist()

    first, second, third = ids(9), ids(3), ids(1)
    duplicate = ids(5)
    return [
        Answer.of(first, ids(4)),
        Answer.of(second, ids(11), mask=[True, False, False, True, True, False, True, True, True, True, False]),
        Answer.of(first, ids(1)),
        Answer.of([], ids(6)),
        Answer.of(third, duplicate),
        Answer.of(first, ids(7), mask=[False] * 3 + [True] * 4),
        Answer.of(third, duplicate),
        Answer.of(second, ids(2), mask=[False, False]),
        Answer.of([], ids(1)),
    ]


def alone(model, answers, **options):
    """Every answer in a forward pass of its own, from the whole logits: the definition."""
    rows = []
    for answer in answers:
        ids = torch.cat([answer.prompt, answer.completion])
        logits = model(input_ids=ids[None]).logits[0].float() / options.get("temperature", 1.0)
        log_p = torch.log_softmax(logits[:-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        if not len(answer.prompt):
            log_p = torch.cat([torch.zeros(1), log_p])
        rows.append(log_p[-len(answer.completion) :] * counted_alone(answer))
    return rows


def counted_alone(answer):
    mask = answer.mask.clone()
    if not len(answer.prompt):
        mask[0] = False
    return mask


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_scores_and_gradients_of_separate_forwards(tiny_model, layout, temperature):
    answers = ragged()
    expected = alone(tiny_model, answers, temperature=temperature)
    weights = [0.5 - 0.3 * i for i in range(len(answers))]
    sum(w * row.sum() for w, row in zip(weights, expected, strict=True)).backward()
    expected_gradients = gradients(tiny_model)
    found = score_answers(tiny_model, answers, layout, temperature=temperature, balance=ALWAYS_SHARE)
    for i, row in enumerate(expected):
        torch.testing.assert_close(found.per_token[i, : len(row)], row, rtol=1e-5, atol=1e-5)
        assert found.per_token[i, len(row) :].abs().sum() == 0
        assert found.mask[i].sum() == counted_alone(answers[i]).sum()
    (torch.tensor(weights) * found.sum()).sum().backward()
    for name, gradient in gradients(tiny_model).items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entropy_and_likeliest_tokens_lie_where_their_log_probs_do(tiny_model, layout):
    answers = ragged()
    answers.append(Answer.of(answers[0].prompt.tolist(), greedy(tiny_model, answers[0].prompt, 3)))
    found = score_answers(tiny_model, answers, layout, entropy=True, balance=ALWAYS_SHARE)
    assert found.likeliest[-1].tolist()[:3] == [True] * 3, "the greedy answer is the likeliest"
    assert not (found.likeliest & ~found.mask).any()
    ids = torch.cat([answers[0].prompt, answers[0].completion])
    log_p = torch.log_softmax(tiny_model(input_ids=ids[None]).logits[0], -1)[len(answers[0].prompt) - 1 : -1]
    torch.testing.assert_close(found.entropy[0, :4], -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-5)
    assert found.entropy[~found.mask].abs().sum() == 0


def greedy(model, prompt, count):
    ids = prompt
    for _ in range(count):
        ids = torch.cat([ids, model(input_ids=ids[None]).logits[0, -1].argmax()[None]])
    return ids[len(prompt) :].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_change_in_one_answer_moves_no_other(tiny_model, layout):
    answers = ragged()
    with torch.no_grad():
        before = score_answers(tiny_model, answers, layout, balance=ALWAYS_SHARE).per_token
        changed = list(answers)
        changed[0] = Answer.of(answers[0].prompt.tolist(), [(t + 1) % 250 for t in answers[0].completion.tolist()])
        after = score_answers(tiny_model, changed, layout, balance=ALWAYS_SHARE).per_token
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_the_answers_is_the_order_of_the_scores(tiny_model, layout):
    answers = ragged()
    order = [4, 0, 8, 2, 6, 1, 3, 7, 5]
    with torch.no_grad():
        straight = score_answers(tiny_model, answers, layout, balance=ALWAYS_SHARE).sum()
        shuffled = score_answers(tiny_model, [answers[i] for i in order], layout, balance=ALWAYS_SHARE).sum()
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-5)


def test_sharing_a_prompt_saves_its_tokens(tiny_model, monkeypatch):
    seen = []
    # The head is looked at once, in a pass of its own.
    Head.of(tiny_model)
    backbone = tiny_model.base_model
    backbone.register_forward_pre_hook(lambda m, a, given: seen.append(given["input_ids"].numel()), with_kwargs=True)
    answers = [Answer.of([7] * 30, [i] * 3) for i in range(4)]
    with torch.no_grad():
        for layout in LAYOUTS:
            score_answers(tiny_model, answers, layout, balance=ALWAYS_SHARE)
    assert seen == [30 + 4 * 3, 4 * 33, 4 * 33]


def test_only_counted_positions_reach_the_output_head(tiny_model, monkeypatch):
    from zoo.models import logps

    rows = []
    original = logps.part_logits
    monkeypatch.setattr(logps, "part_logits", lambda hidden, *rest: rows.append(len(hidden)) or original(hidden, *rest))
    answers = [Answer.of([1] * 50, [2] * 4, mask=[True, False, True, True])]
    with torch.no_grad():
        score_answers(tiny_model, answers, "padded")
    assert sum(rows) == 3


def test_answers_without_a_counted_token_have_a_zero_score_and_a_zero_gradient(tiny_model):
    found = score_answers(tiny_model, [Answer.of([1, 2], [3], mask=[False])], "shared")
    found.sum().sum().backward()
    assert float(found.mean().detach()) == 0.0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in tiny_model.parameters())


def test_no_answers_give_no_scores(tiny_model):
    found = score_answers(tiny_model, [], "shared", entropy=True)
    assert found.sum().shape == found.entropy.sum(-1).shape == (0,)


def test_scores_are_cut_into_parts_as_wide_as_their_longest_completion(tiny_model):
    first = [Answer.of([1], [2, 3, 4], mask=[True, True, False]), Answer.of([1], [5])]
    second = [Answer.of([1], [6])]
    with torch.no_grad():
        joined = score_answers(tiny_model, [*first, *second], "shared", entropy=True)
        one, two = split(joined, [first, second])
    assert one.per_token.shape == one.mask.shape == one.entropy.shape == (2, 3)
    assert one.mask.tolist() == [[True, True, False], [True, False, False]]
    assert two.per_token.shape == two.likeliest.shape == (1, 1)
    assert torch.equal(torch.cat([one.sum(), two.sum()]), joined.sum())


def test_adapters_are_scored_like_any_model(tiny_model):
    from peft import LoraConfig, get_peft_model

    before = score_answers(tiny_model, ragged(), "shared").sum().detach()
    adapted = get_peft_model(tiny_model, LoraConfig(target_modules="all-linear", r=2, task_type="CAUSAL_LM")).eval()
    found = score_answers(adapted, ragged(), "shared").sum()
    torch.testing.assert_close(found.detach(), before)
    found.sum().backward()
    trained = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)


def test_balance_is_where_attention_costs_as_much_as_the_matrix_products(tiny_model):
    assert balance_of(tiny_model) == 64, "a tiny model has tiny matrices; 64 is the least"
    wide = transformers.LlamaConfig(
        vocab_size=100, hidden_size=576, intermediate_size=1536, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3,
    )  # fmt: skip
    assert 900 < balance_of(transformers.LlamaForCausalLM(wide)) < 1200


# -- the self-test of the start ----------------------------------------------------------------------------------

SIZES = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip


def build(config):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def sample():
    return [Answer.of([1, 2, 3], [4, 5, 6]), Answer.of([7, 8, 9], [10, 11, 12])]


@pytest.mark.parametrize("wanted", ["shared", "packed", "padded"])
def test_a_layout_that_agrees_with_separate_forwards_is_taken(tiny_model, wanted):
    assert choose_layout(tiny_model, sample(), wanted, 1e-4) == (wanted, "")


def test_auto_takes_shared_rows(tiny_model):
    assert choose_layout(tiny_model, sample(), "auto", 1e-4) == ("shared", "")


def test_a_layout_that_differs_is_refused_with_the_difference(tiny_model):
    """Attention that adds the mask instead of applying it cannot isolate; the sample alone would not show it."""
    model = build(transformers.LlamaConfig(**SIZES, attn_implementation="eager"))
    layout, note = choose_layout(model, sample(), "auto", 1e-4)
    assert layout == "padded"
    assert "shared rows differ by" in note and "packed rows differ by" in note


def test_a_layout_on_which_the_model_fails_is_refused_with_the_reason(tiny_model, monkeypatch):
    def forward(*arguments, position_ids=None, original=tiny_model.base_model.forward, **rest):
        if position_ids is not None:
            raise TypeError("position_ids are not for me")
        return original(*arguments, **rest)

    monkeypatch.setattr(tiny_model.base_model, "forward", forward)
    layout, note = choose_layout(tiny_model, sample(), "shared", 1e-4)
    assert layout == "padded" and "shared rows fail (TypeError: position_ids are not for me)" in note


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SIZES, sliding_window=8),
        transformers.Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_a_window_shorter_than_the_texts_means_padded_rows_even_if_a_short_sample_would_agree(config):
    model = build(config)
    layout, note = choose_layout(model, sample(), "auto", 1e-3)
    assert layout == "padded" and "see 8 tokens only" in note
    assert choose_layout(model, sample(), "auto", 1e-3, longest=8)[0] == "shared", "no text is longer than the window"
    assert choose_layout(model, sample(), "auto", 1e-3, longest=9)[0] == "padded"
    assert choose_layout(model, sample(), "padded", 1e-3) == ("padded", "")


def test_padded_rows_respect_a_window():
    model = build(transformers.MistralConfig(**SIZES, sliding_window=4))
    long = Answer.of(list(range(20)), list(range(30, 45)))
    with torch.no_grad():
        found = score_answers(model, [long, Answer.of([1], [2, 3])], "padded").per_token[0]
        torch.testing.assert_close(found, alone(model, [long])[0], rtol=1e-5, atol=1e-5)


def test_a_window_that_no_layer_uses_does_not_matter(tiny_model):
    assert attention_window(tiny_model) is None
    qwen = build(transformers.Qwen2Config(**SIZES, use_sliding_window=False, sliding_window=8))
    assert attention_window(qwen) is None
    assert choose_layout(qwen, sample(), "auto", 1e-3)[0] == "shared"


def test_a_model_with_a_state_between_tokens_gets_padded_rows_however_little_its_texts_see_of_each_other():
    config = transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
    model = build(config)
    with torch.no_grad():
        model.model.layers[0].conv.out_proj.weight.zero_()
    layout, note = choose_layout(model, sample(), "auto", 1e-3)
    assert (layout, note) == ("padded", "Layout padded: this model has layers that hand a state from token to token.")


def test_the_tiny_model_is_the_same_each_time():
    one, two = make_model(258, 257), make_model(258, 257)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_frozen_model_with_rounded_matrices_scores_the_same_to_the_last_bit(tiny_model):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        before = score_answers(tiny_model, sample(), "shared").per_token
        assert round_frozen(tiny_model.requires_grad_(False), "bf16-mixed") is tiny_model
        assert torch.equal(score_answers(tiny_model, sample(), "shared").per_token, before)
    kinds = {name: p.dtype for name, p in tiny_model.named_parameters()}
    assert kinds["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.float32


def test_in_exact_arithmetic_nothing_is_rounded(tiny_model):
    assert {p.dtype for p in round_frozen(tiny_model, "32-true").parameters()} == {torch.float32}


def test_weights_in_bfloat16_may_differ_by_what_padding_changes_and_no_more(tiny_model):
    """A tolerance of nothing: only the rounding that padded rows show is left."""
    assert choose_layout(tiny_model.bfloat16(), sample(), "auto", 1e-9) == ("shared", "")
    leaking = build(transformers.LlamaConfig(**SIZES, attn_implementation="eager")).bfloat16()
    layout, note = choose_layout(leaking, sample(), "auto", 1e-9)
    assert layout == "padded" and "packed rows differ by" in note
