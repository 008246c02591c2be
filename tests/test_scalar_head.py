"""A scalar head: scores are what transformers computes, whatever the layout, and survive being saved."""

import json
import math
import shutil

import pytest
import torch
from tiny_runs import cli, trainer, write_rows

from zoo.data.encoding.collate import default_collate
from zoo.data.encoding.template import ChatTemplate
from zoo.data.loader import micro_batches
from zoo.errors import ZooError
from zoo.evals import Subject, reward_models
from zoo.models import scalar
from zoo.models.layout import LAYOUTS
from zoo.models.loading import head_of, load_model, load_scorer, load_tokenizer, scorer_to_train
from zoo.models.names import resolve_model
from zoo.models.scalar import (
    ScalarPolicy,
    answer_scores,
    choose_padding,
    is_scorer,
    position_scores,
    scale_of,
    score_many,
    set_scale,
)
from zoo.models.start import load_policy
from zoo.options.config import TrainConfig
from zoo.testing.tiny import tiny_rows
from zoo.values.answers import answers_in
from zoo.values.types import Answer, Answers

ANSWERS = Answers(
    [Answer.of([5, 6, 7], [8, 9]), Answer.of([5, 6, 7], [10]), Answer.of([3], [4] * 9), Answer.of([3], [11, 12, 13])]
)


@pytest.fixture
def train(tmp_path, tiny_folder):
    return trainer(tmp_path, tiny_folder)


@pytest.fixture
def scorer(tiny_folder):
    return scorer_to_train(resolve_model(str(tiny_folder)), torch.float32, seed=0)


def pairs(tmp_path, count=12):
    return write_rows(tmp_path / f"pairs-{count}.jsonl", tiny_rows("preference", count))


def by_transformers(model, answer):
    """The definition: one text, one forward pass, transformers' own head at the last token."""
    ids = torch.cat([answer.prompt, answer.completion])[None]
    return float(model(input_ids=ids).logits[0, 0].detach())


def scores_of(folder):
    return score_many(load_model(resolve_model(str(folder)), torch.float32), ANSWERS)


# -- scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_those_of_transformers_in_every_layout(scorer, layout):
    expected = [by_transformers(scorer, answer) for answer in ANSWERS]
    assert answer_scores(scorer, ANSWERS, layout, 10**9).tolist() == pytest.approx(expected, abs=1e-5)
    assert score_many(scorer, ANSWERS, layout) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_do_not_depend_on_the_layout(scorer, layout):
    def gradients(chosen):
        scorer.zero_grad()
        answer_scores(scorer, ANSWERS, chosen, 10**9).square().sum().backward()
        return {name: p.grad.clone() for name, p in scorer.named_parameters()}

    expected, found = gradients("padded"), gradients(layout)
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_scored_at_their_last_tokens(scorer, layout):
    at = [[0, 1], [0], [2, 5, 8], []]
    scores = position_scores(scorer, ANSWERS, at, layout, 10**9)
    assert scores.mask.sum(-1).tolist() == [2, 1, 3, 0]
    for answer, ends, row in zip(ANSWERS, at, scores.per_step, strict=True):
        for end, value in zip(ends, row, strict=False):
            alone = Answer.of(answer.prompt, answer.completion[: end + 1])
            assert value.item() == pytest.approx(by_transformers(scorer, alone), abs=1e-5)
    assert (scores.per_step[~scores.mask] == 0).all()


def test_several_arguments_come_back_apart_and_nothing_is_nothing(scorer):
    policy = ScalarPolicy(scorer, "shared")
    first, second = policy.scores(ANSWERS[:1], ANSWERS[1:])
    assert [*first.tolist(), *second.tolist()] == pytest.approx(policy.scores(ANSWERS).tolist(), abs=1e-5)
    assert policy.scores(ANSWERS[:0]).shape == (0,)


def test_the_head_is_float32_under_mixed_precision(scorer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = answer_scores(scorer, ANSWERS, "padded")
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


def test_asking_a_scorer_for_log_probs_says_what_it_is(scorer):
    with pytest.raises(ZooError, match="scalar head"):
        ScalarPolicy(scorer, "padded").logps(ANSWERS)


# -- the head's start, gain and bias -----------------------------------------------------------------------------


def test_the_head_starts_with_variance_one_over_d_plus_one(monkeypatch):
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.score = torch.nn.Linear(40_000, 1, bias=False)

    model = Wide()
    state = torch.get_rng_state()
    scalar.start_head(model, 0)
    first = model.score.weight.clone()
    assert first.std().item() == pytest.approx(1 / math.sqrt(40_001), rel=0.02)
    assert torch.equal(state, torch.get_rng_state())
    scalar.start_head(model, 0)
    assert torch.equal(model.score.weight, first)
    scalar.start_head(model, 1)
    assert not torch.equal(model.score.weight, first)


@pytest.mark.parametrize(("std", "expected"), [(1.0, "normalised"), (None, "bias_only")])
def test_normalisation_is_that_of_the_worked_numbers(scorer, vectors, monkeypatch, std, expected):
    case = vectors["rm.normalise"]
    rewards = case["inputs"]["rewards_on_reference_policy_samples"]
    monkeypatch.setattr(scalar, "score_many", lambda *given: rewards)
    ScalarPolicy(scorer, "padded").normalize(ANSWERS, std=std)
    gain, bias = scale_of(scorer)
    assert [gain * reward + bias for reward in rewards] == pytest.approx(case["expected"][expected])
    if std:
        assert (gain, bias) == pytest.approx((case["expected"]["gain"], case["expected"]["bias"]))


def test_normalising_twice_is_normalising_once(scorer):
    policy = ScalarPolicy(scorer, "padded")
    policy.normalize(ANSWERS, mean=3.0, std=2.0)
    once = scale_of(scorer)
    policy.normalize(ANSWERS, mean=3.0, std=2.0)
    assert scale_of(scorer) == pytest.approx(once)
    values = torch.tensor(score_many(scorer, ANSWERS))
    assert (float(values.mean()), float(values.std(correction=0))) == pytest.approx((3.0, 2.0), abs=1e-5)


# -- saved and loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_a_trained_model_scores_the_same_when_it_is_loaded_again(train, tmp_path, lora):
    run = train("rm", data=pairs(tmp_path), lora=lora, lr=1e-3, normalize="mean_std", normalize_samples=6)
    chosen = [run_answer(run, row["prompt"], row["chosen"]) for row in tiny_rows("preference", 12)[::2]]
    model = run.load()[0]
    values = torch.tensor(score_many(model, chosen))
    # What was normalised in training is normal after loading: weights, head, gain and bias all came back.
    assert float(values.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(values.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def run_answer(run, prompt, completion):
    from zoo.data.encoding.template import ChatTemplate

    return ChatTemplate(load_tokenizer(resolve_model(str(run.path)))).answer(prompt, completion)


@pytest.mark.parametrize("lora", [False, True])
def test_transformers_alone_scores_a_padded_batch_the_same(train, tmp_path, lora):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = train("rm", data=pairs(tmp_path), lora=lora, lr=1e-3, name="reward")
    folder = run.model_path
    if lora:
        status, _, err = cli("export", "reward", tmp_path / "merged", "--merge", "--out", run.path.parent)
        assert status == 0, err
        folder = tmp_path / "merged"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    answers = [run_answer(run, "red", "one two"), run_answer(run, "blue", "three")]
    texts = [{"input_ids": torch.cat([one.prompt, one.completion]).tolist()} for one in answers]
    batch = tokenizer.pad(texts, return_tensors="pt")
    gain, bias = scale_of(model)
    with torch.no_grad():
        alone = gain * model.eval()(**batch).logits[:, 0] + bias
    assert bias != 0
    # The answers end in the token that this tokenizer used to pad with.
    assert alone.tolist() == pytest.approx(scores_with(run.model_path, answers), abs=1e-5)
    assert scores_with(folder, answers) == pytest.approx(scores_with(run.model_path, answers), abs=1e-5)


def scores_with(folder, answers):
    return score_many(load_model(resolve_model(str(folder)), torch.float32), answers)


def test_padding_is_a_token_that_never_ends_an_answer(scorer, tiny_tokenizer, tiny_folder):
    tokenizer = load_tokenizer(resolve_model(str(tiny_folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert choose_padding(scorer, tokenizer, {tokenizer.eos_token_id})
    assert tokenizer.pad_token == "<|im_start|>"
    assert scorer.config.pad_token_id == tokenizer.pad_token_id
    assert not choose_padding(scorer, tokenizer, set(tokenizer.all_special_ids))


def test_training_goes_on_with_the_head_that_a_model_has(train, tmp_path):
    run = train("rm", data=pairs(tmp_path), lr=1e-3, name="first")
    source = resolve_model(str(run.path))
    raw = load_scorer(source, torch.float32)
    set_scale(raw, 2.0, 5.0)
    before = score_many(raw, ANSWERS)
    raw.save_pretrained(tmp_path / "scaled")
    load_tokenizer(source).save_pretrained(tmp_path / "scaled")
    again = scorer_to_train(resolve_model(str(tmp_path / "scaled")), torch.float32, seed=7)
    assert scale_of(again) == (1.0, 0.0)
    assert score_many(again, ANSWERS) == pytest.approx([value - 5.0 for value in before], abs=1e-5)


def test_a_scorer_starts_from_adapters_of_a_language_model(train, tmp_path):
    train("sft", lora=True, lr=1e-2, name="warm")
    run = train("rm", data=pairs(tmp_path), model=str(tmp_path / "runs" / "warm"), lora=True, name="reward")
    shutil.rmtree(tmp_path / "runs" / "warm")
    assert is_scorer(run.load()[0])


def test_rankings_train_the_same_whatever_the_micro_batch(train, tmp_path):
    data = write_rows(tmp_path / "rankings.jsonl", tiny_rows("ranking", 12))
    first = train("rm", data=data, lr=1e-3)
    second = train("rm", data=data, lr=1e-3, micro_tokens=60, layout="padded")
    assert scores_of(first.model_path) == pytest.approx(scores_of(second.model_path), abs=1e-4)
    assert first.log_history[0]["num_tokens"] > 0


def test_several_answers_to_a_prompt_reach_a_batch_together_and_are_counted():
    records = [{"completions": list(ANSWERS[:2]), "ranks": [1, 2]}, {"completions": list(ANSWERS[2:]), "ranks": [2, 1]}]
    batch = default_collate(records)
    assert [type(part) for part in batch.completions] == [Answers, Answers]
    assert [id(answer) for answer in answers_in(batch)] == [id(answer) for answer in ANSWERS]
    alone = micro_batches(batch, 1)
    assert sorted(part.ranks[0] for part in alone) == [[1, 2], [2, 1]]


def test_a_reward_is_left_as_it_is_on_request(train, tmp_path):
    run = train("rm", data=pairs(tmp_path), normalize="none")
    assert scale_of(run.load()[0]) == (1.0, 0.0)


def test_steps_train(train, tmp_path):
    rows = [{"prompt": f"count {i}", "steps": ["one", "two", "cat"], "labels": [1, 1, 0]} for i in range(12)]
    run = train("prm", data=write_rows(tmp_path / "steps.jsonl", rows), lr=1e-2, epochs=3)
    assert run.log_history[-1]["accuracy"] == 1.0
    assert scalar.unit_of(run.load()[0]) == "step"
    status, out, err = cli("eval", run.path, "--eval", f"step_accuracy(data={tmp_path / 'steps.jsonl'})", "--json")
    assert status == 0, err
    (score,) = json.loads(out).values()
    assert (score["value"], score["n"], score["details"]["steps"]) == (1.0, 12, 36)
    status, _, err = cli("eval", run.path, "--eval", "pair_accuracy")
    assert (status, "--eval step_accuracy" in err) == (2, True)


def test_steps_count_up_to_the_first_wrong_one_and_solutions_alike(monkeypatch, tiny_folder):
    rows = [
        {"row": 1, "prompt": "a", "steps": ["x", "y", "z"], "labels": [1, -1, -1]},
        {"row": 2, "prompt": "b", "steps": ["x", "y"], "labels": [1, 1]},
    ]
    source = resolve_model(str(tiny_folder))
    model, tokenizer = scorer_to_train(source, torch.float32, 0), load_tokenizer(source)
    scalar.set_unit(model, "step")
    monkeypatch.setattr(reward_models, "score_many", lambda *_, **__: [[2.0, -1.0, 5.0], [-1.0, 3.0]])
    found = reward_models.step_eval("s", Subject(model, tokenizer, ChatTemplate(tokenizer)), rows)
    assert (found.value, found.n) == (0.75, 2)
    assert found.details == {
        "steps": 4, "right_steps": 3, "accuracy_of_right": 0.667, "wrong_steps": 1, "accuracy_of_wrong": 1.0,
        "f1_of_wrong": 0.667,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("zero", "right", "wrong"),
    [("wrong", (3, 3), (1, 0)), ("right", (5, 4), (1, 1)), ("skip", (4, 3), (1, 1)), ("", None, None)],
)
def test_what_a_neutral_step_counts_as_is_said_and_not_guessed(zero, right, wrong, monkeypatch, tiny_folder):
    """By hand: as wrong the 0 ends the first solution, whose third step is not looked at; skipped it is left out."""
    rows = [
        {"row": 1, "prompt": "a", "steps": ["v", "w", "x", "y"], "labels": [1, 0, 1, -1]},
        {"row": 2, "prompt": "b", "steps": ["x", "y"], "labels": [1, 1]},
    ]
    source = resolve_model(str(tiny_folder))
    model, tokenizer = scorer_to_train(source, torch.float32, 0), load_tokenizer(source)
    scalar.set_unit(model, "step")
    monkeypatch.setattr(reward_models, "score_many", lambda *_, **__: [[2.0, 1.0, -3.0, -1.0], [1.0, 3.0]])
    subject = Subject(model, tokenizer, ChatTemplate(tokenizer))
    if not zero:
        with pytest.raises(ZooError, match="0 may mean neutral") as caught:
            reward_models.step_eval("s", subject, rows, zero)
        assert "step_accuracy(zero=right)" in caught.value.hint
        return
    found = reward_models.step_eval("s", subject, rows, zero).details
    count = {word: found[f"{word}_steps"] for word in ("right", "wrong")}
    hits = {word: round(found[f"accuracy_of_{word}"] * count[word]) for word in count}
    assert {word: (count[word], hits[word]) for word in count} == {"right": right, "wrong": wrong}


def test_a_meaning_of_zero_that_is_none_is_refused(train, tmp_path):
    rows = [{"prompt": f"count {i}", "steps": ["one", "two"], "labels": [1, 0]} for i in range(4)]
    data = write_rows(tmp_path / "steps.jsonl", rows)
    run = train("prm", data=data)
    status, _, err = cli("eval", run.path, "--eval", f"step_accuracy(data={data}, zero=rigth)")
    assert status == 2 and "Did you mean 'right'?" in err


# -- the wrong sort of model -------------------------------------------------------------------------------------


def test_what_a_folder_holds_is_told_from_its_configuration(train, tmp_path, tiny_folder):
    run = train("rm", data=pairs(tmp_path), lora=True)
    assert head_of(resolve_model(str(run.path))) == "scalar"
    assert head_of(resolve_model(str(tiny_folder))) == "lm"


def test_a_reward_model_cannot_write_answers(train, tmp_path):
    run = train("rm", data=pairs(tmp_path), name="reward")
    with pytest.raises(ZooError, match="scores answers and writes none"):
        train("sft", model=str(run.path))
    status, _, err = cli("chat", "reward", "--prompt", "hello", "--out", tmp_path / "runs")
    assert status == 2
    assert "writes none" in err


def test_a_language_model_is_no_reward_model(tiny_folder):
    with pytest.raises(ZooError, match="is a language model, not a reward model"):
        load_scorer(resolve_model(str(tiny_folder)), torch.float32)


# -- which data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["preference", "ranking"])
def test_of_several_kinds_the_data_decides(train, tmp_path, tiny_folder, kind):
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows(kind, 8))
    status, out, err = cli("data", data, "--for", "rm", "--model", tiny_folder, "--json", "--examples", 0)
    assert (status, json.loads(out)["kind"] if status == 0 else err) == (0, kind)
    assert train("rm", data=data, max_steps=1).status == "finished"


def test_data_of_another_kind_becomes_the_first_one_or_is_refused(train, tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    with pytest.raises(ZooError, match="kind 'preference'"):
        train("rm", data=write_rows(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("head", ["lm", "scalar"])
def test_a_model_with_adapters_comes_without_active_dropout(tiny_folder, head):
    core = TrainConfig(model=str(tiny_folder), lora=True, lora_rank=2, lora_dropout=0.5, accelerator="cpu")
    policy = load_policy(core, resolve_model(str(tiny_folder), print), "32-true", head)
    assert not [name for name, module in policy.named_modules() if module.training]
