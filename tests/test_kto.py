"""KTO: worked numbers, values and gradients; mismatches that never match; the reference point; the balance of marks."""

import itertools
import random
import re
import warnings

import pytest
import torch
from formulas import backward, close, evaluate, measured, metric, options, tensor, together
from tiny_runs import losses, trainer, write_rows
from transformers import AutoModelForCausalLM

from zoo.api import Answer, Answers
from zoo.contract.registry import load_algorithm
from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.testing import stand_ins
from zoo.values.records import ListedRecords

KTO = load_algorithm("kto")[1]
FIELDS = {"completion": "", "mismatched": "kl_"}
WEIGHTS = ("desirable_weight", "undesirable_weight")


def roles(case):
    policy = {field: tensor(case["inputs"][f"{prefix}policy_logps"]) for field, prefix in FIELDS.items()}
    reference = {field: tensor(case["inputs"][f"{prefix}ref_logps"]) for field, prefix in FIELDS.items()}
    return policy, reference, {"label": torch.tensor(case["inputs"]["desirable"])}


@pytest.mark.parametrize("name", ["kto.unit", "kto.clamped"])
def test_the_worked_numbers(vectors, name):
    case, expected = vectors[name], vectors[name]["expected"]
    policy, reference, fields = roles(case)
    loss = evaluate(KTO(), policy, reference, fields=fields, beta=case["inputs"]["beta"])
    close(loss.values, expected["losses"])
    close(loss.mean(), expected["loss"])
    close(metric(loss, "kl"), expected["z0_unclamped"])
    close(metric(loss, "reference_point"), expected["z0"])
    # Log-ratios 0.5, 1, -0.25, -5.5 of good, bad, good, bad against z₀ 0.5 (the first ties) and against 0.
    assert metric(loss, "accuracies") == {"kto.unit": (0.5 + 0 + 0 + 1) / 4, "kto.clamped": (1 + 0 + 0 + 1) / 4}[name]
    all_bad = evaluate(KTO(), policy, reference, fields={"label": ~torch.ones(4, dtype=torch.bool)})
    # Against z₀: the first ties, the second lies above, the others below.
    assert (
        metric(all_bad, "accuracies") == {"kto.unit": (0.5 + 0 + 1 + 1) / 4, "kto.clamped": (0 + 0 + 1 + 1) / 4}[name]
    )


def test_the_worked_gradients_and_none_through_the_reference_point(vectors):
    expected = vectors["kto.unit"]["expected"]
    policy, reference, fields = roles(vectors["kto.unit"])
    policy = {field: values.requires_grad_() for field, values in policy.items()}
    loss = evaluate(KTO(), policy, reference, fields=fields)
    inputs = [policy["completion"], policy["mismatched"]]
    own, mismatched = torch.autograd.grad(loss.mean(), inputs, allow_unused=True, materialize_grads=True)
    close(own, expected["grad_policy_logps"])
    close(mismatched, expected["grad_kl_policy_logps"])


def test_where_the_estimate_is_clamped_the_slope_is_that_of_the_log_ratio_alone(vectors):
    """With z₀ = 0 a good answer's slope is −β σ(βr) σ(−βr) / n, a bad one's the opposite."""
    policy, reference, fields = roles(vectors["kto.clamped"])
    policy = {field: values.requires_grad_() for field, values in policy.items()}
    backward(evaluate(KTO(), policy, reference, fields=fields))
    r = 0.1 * (policy["completion"].detach() - reference["completion"])
    sign = torch.where(fields["label"], tensor(-1.0), tensor(1.0))
    close(policy["completion"].grad, sign * 0.1 * torch.sigmoid(r) * torch.sigmoid(-r) / 4)
    assert policy["mismatched"].grad is None


def test_the_weighted_share_is_within_the_balance_rule_where_the_weights_are(vectors):
    policy, reference, _ = roles(vectors["kto.unit"])
    label = torch.tensor([True, False, False, False])
    for weight, share in ((3.0, 1 / 2), (4.0, 4 / 7), (1.0, 1 / 4)):
        loss = evaluate(KTO(), policy, reference, fields={"label": label}, desirable_weight=weight)
        assert metric(loss, "desirable/weighted") == pytest.approx(share) and metric(loss, "desirable") == 0.25


def test_the_weights_stand_before_each_class(vectors):
    policy, reference, fields = roles(vectors["kto.unit"])
    plain = evaluate(KTO(), policy, reference, fields=fields).values
    found = evaluate(KTO(), policy, reference, fields=fields, desirable_weight=3.0, undesirable_weight=0.5).values
    close(found, torch.where(fields["label"], 3.0, 0.5) * plain)


def test_the_reference_point_is_of_the_whole_step_and_clamped_after_the_mean(vectors):
    """Clamped in each part it would be 0.5 here (one part −1, the other +1) where the step's is 0."""
    policy = {"completion": tensor([-1.0, -2.0]), "mismatched": tensor([-4.0, -2.0])}
    reference = {"completion": tensor([-1.5, -1.5]), "mismatched": tensor([-3.0, -3.0])}
    fields = {"label": torch.tensor([True, False])}
    whole = evaluate(KTO(), policy, reference, fields=fields)
    assert metric(whole, "reference_point") == metric(whole, "kl") == 0.0

    def part(i):
        cut = [{field: values[i : i + 1] for field, values in role.items()} for role in (policy, reference)]
        return evaluate(KTO(), *cut, fields={"label": fields["label"][i : i + 1]}, known={"kl": tensor(0.0)})

    close(together([part(0), part(1)]), whole.mean())


# -- mismatched answers ------------------------------------------------------------------------------------------


def records_of(prompts):
    """A record for each prompt (a list of ids); the completion tells where it came from."""
    return [
        {"row": i + 1, "completion": Answer.of(prompt, [100 + i, 7][: 1 + i % 2]), "label": i % 2 == 0}
        for i, prompt in enumerate(prompts)
    ]


def partners(prompts):
    """For each record the index of the one whose completion it meets."""
    batch = KTO().collate(records_of([[p] for p in prompts]), 99)
    assert [one.prompt.tolist() for one in batch.mismatched] == [[p] for p in prompts]
    return [int(one.completion[0]) - 100 for one in batch.mismatched]


def test_different_prompts_are_shifted_by_one(vectors):
    names = vectors["kto.mismatch_shift"]
    found = [names["inputs"]["batch"][i] for i in partners([1, 2, 3])]
    assert found == names["expected"]["halos_next"] != names["expected"]["WRONG_reversal"]


def test_no_answer_meets_its_own_prompt_however_prompts_repeat():
    for size in range(2, 6):
        for prompts in itertools.product(range(3), repeat=size):
            if len(set(prompts)) > 1:
                assert all(prompts[i] != prompts[j] for i, j in enumerate(partners(list(prompts))))
    source = random.Random(0)
    for _ in range(100):
        prompts = [source.randint(0, 6) for _ in range(source.randint(2, 33))]
        if len(set(prompts)) > 1:
            assert all(prompts[i] != prompts[j] for i, j in enumerate(partners(prompts)))


def test_every_answer_serves_once_unless_one_prompt_has_more_than_half():
    assert sorted(partners([1, 1, 2, 3, 2, 1])) == list(range(6))
    assert partners([5, 5, 5, 1])[:3] == [3, 3, 3]


@pytest.mark.parametrize(("max_length", "lengths"), [(1024, [90, 3]), (90, [90, 3]), (60, [60, 3]), (51, [51, 3])])
def test_a_mismatched_text_is_cut_at_max_length_whatever_else_is_in_the_step(max_length, lengths):
    """The prompt of 50 tokens meets the answer of 40, though no text of the step is longer than 52."""
    long, short = Answer.of(list(range(50)), [1, 2], ended=True), Answer.of([9], list(range(40)), ended=True)
    records = [{"row": i, "completion": one, "label": True} for i, one in enumerate((long, short))]
    made = KTO().collate(records, max_length).mismatched
    assert [len(one) for one in made] == lengths
    assert made[0].completion.tolist() == list(range(40))[: max_length - 50]
    assert [one.ended for one in made] == [lengths[0] == 90, True], "a text that was cut has no end"


def test_the_estimate_of_a_run_is_that_of_the_whole_texts(tmp_path, tiny_folder):
    """Two rows, a long prompt with a short answer and the other way round; computed by transformers alone."""
    texts = [("one two three cat dog sun moon here there red", "cat"), ("sun", "dog one two three red blue here")]
    rows = [{"prompt": prompt, "completion": text, "label": i == 0} for i, (prompt, text) in enumerate(texts)]
    train = trainer(tmp_path, tiny_folder)
    moved = train("sft", data=write_rows(tmp_path / "a.jsonl", rows), lr=1e-2, name="moved", score="none")
    file = write_rows(tmp_path / "b.jsonl", rows)
    run = train("kto", data=file, reference=str(tiny_folder), model=str(moved.path), max_steps=1, score="none")
    policy, tokenizer = moved.load()
    start = AutoModelForCausalLM.from_pretrained(tiny_folder)
    template = ChatTemplate(tokenizer)
    answers = [template.answer(prompt, text) for prompt, text in texts]
    ratios = []
    for answer, other in zip(answers, reversed(answers), strict=True):
        ids = torch.cat([answer.prompt, other.completion])[None]
        logps = [model(ids).logits[0, :-1].log_softmax(-1) for model in (policy, start)]
        each = torch.stack([one.gather(-1, ids[0, 1:, None])[:, 0] for one in logps])[:, len(answer.prompt) - 1 :]
        ratios.append((each[0] - each[1])[other.mask].sum())
    assert run.log_history[0]["kl"] == pytest.approx(float(torch.stack(ratios).mean().detach()), abs=1e-4)
    assert abs(run.log_history[0]["kl"]) > 0.1


@pytest.mark.parametrize("prompts", [[[1]], [[4], [4], [4]]])
def test_a_step_with_one_prompt_only_has_the_reference_point_0_and_says_so(prompts):
    with pytest.warns(UserWarning, match="answers to one prompt only.*--batch-size"):
        made = KTO().collate(records_of(prompts), 99)
    assert [one.prompt.tolist() for one in made.mismatched] == prompts
    assert made.mismatched.lengths.tolist() == [0] * len(prompts)


def test_without_mismatches_nothing_is_counted():
    batch, models = stand_ins(
        policy={"completion": tensor([-1.0]), "mismatched": tensor([[0.0]])},
        reference={"completion": tensor([-2.0]), "mismatched": tensor([[0.0]])},
        masks={"mismatched": torch.tensor([[False]])},
        fields={"label": torch.tensor([True])},
    )
    total, count = KTO().measure(batch, models)["kl"]
    assert (float(total), int(count)) == (0.0, 0)


def test_the_mismatched_answers_are_those_of_the_batch_in_any_order_the_core_cuts_it():
    batch = KTO().collate(records_of([[1], [2], [3], [1]]), 99)
    part = batch.select([3, 0])
    assert isinstance(part.mismatched, Answers)
    assert [one.prompt.tolist() for one in part.mismatched] == [[1], [1]]
    assert part.label.tolist() == [False, True]


# -- one class, start, extremes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False])
def test_answers_of_one_mark_only_give_a_finite_loss_and_no_number_for_the_other(good):
    completion = tensor([-3.0, -4.0]).requires_grad_()
    policy = {"completion": completion, "mismatched": tensor([-5.0, -6.0])}
    reference = {"completion": tensor([-3.5, -3.0]), "mismatched": tensor([-5.5, -6.5])}
    loss = evaluate(KTO(), policy, reference, fields={"label": torch.tensor([good, good])})
    backward(loss)
    assert loss.values.isfinite().all() and completion.grad.isfinite().all()
    missing, there = ("undesirable", "desirable") if good else ("desirable", "undesirable")
    for name in ("rewards", "logps"):
        assert loss.metrics[f"{name}/{missing}"].isnan().all()
        assert not loss.metrics[f"{name}/{there}"].isnan().any()


def test_the_mean_is_over_all_examples_and_not_over_the_classes():
    zeros = {"completion": tensor([0.0, 0.0, 0.0, -50.0]), "mismatched": tensor([0.0] * 4)}
    same = {field: tensor([0.0] * 4) for field in FIELDS}
    loss = evaluate(KTO(), zeros, same, fields={"label": torch.tensor([True, True, True, False])})
    close(loss.mean(), (3 * 0.5 + torch.sigmoid(tensor(-5.0))) / 4)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 2.0}])
def test_where_policy_and_reference_agree_it_starts_at_half_the_mean_weight(weights):
    same = {"completion": tensor([-12.0, -30.0]), "mismatched": tensor([-8.0, -9.0])}
    loss = evaluate(KTO(), same, same, fields={"label": torch.tensor([True, False])}, **weights)
    close(loss.mean(), 0.5 * (weights.get("desirable_weight", 1.0) + 1.0) / 2)


def test_far_apart_answers_stay_finite_and_no_longer_pull():
    far = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    zeros = torch.zeros(4)
    policy, reference = {"completion": far, "mismatched": zeros}, {"completion": zeros, "mismatched": zeros}
    loss = evaluate(KTO(), policy, reference, fields={"label": torch.tensor([True, True, False, False])})
    loss.numerator.backward()
    assert loss.values.tolist() == [0.0, 1.0, 1.0, 0.0] and far.grad.tolist() == [0.0] * 4


# -- the balance of good and bad answers --------------------------------------------------------------------------


def prepared(good, bad, **values):
    """The weights that the loss then takes, and what was said."""
    records = ListedRecords([{"label": True}] * good + [{"label": False}] * bad)
    algorithm = KTO()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert algorithm.prepare(records, options(KTO, **values)) is records
    half = {"completion": tensor([0.0, 0.0]), "mismatched": tensor([0.0, 0.0])}
    losses = evaluate(algorithm, half, half, fields={"label": torch.tensor([True, False])}, **values).values
    return (2 * losses).tolist(), [str(one.message) for one in said]


def test_the_class_that_is_short_is_raised_to_the_near_end_of_the_rule(vectors):
    case = vectors["kto.balance_rule"]
    low, high = case["expected"]["lambda_D_range_4_3"]
    weights, said = prepared(case["inputs"]["n_D"], case["inputs"]["n_U"])
    assert weights == pytest.approx([low, 1.0])
    assert len(said) == 1 and "--desirable-weight 4 --undesirable-weight 1" in said[0]
    # λ_D at the other end would do as well: nothing is said there, nor beyond the rule's ends only.
    for weight, silent in ((low, True), (high, True), (0.99 * low, False), (1.01 * high, False)):
        weights, said = prepared(20, 80, desirable_weight=weight)
        assert weights == pytest.approx([weight, 1.0]) and (not said) == silent


def test_more_good_answers_raise_the_weight_of_the_bad_ones():
    weights, said = prepared(80, 20)
    assert weights == pytest.approx([1.0, 3.0]) and "--desirable-weight 1 --undesirable-weight 3" in said[0]


def test_balanced_marks_keep_both_weights_at_1_and_nothing_is_said():
    for good, bad in ((10, 10), (4, 3)):
        assert prepared(good, bad) == ([1.0, 1.0], [])


def test_weights_of_the_users_are_kept_and_the_flags_that_follow_the_paper_are_named():
    assert prepared(10, 40, undesirable_weight=0.0) == ([1.0, 0.0], [])
    weights, said = prepared(10, 40, undesirable_weight=2.0)
    assert weights == [1.0, 2.0]
    assert "0.125" in said[0] and "To follow the paper type --desirable-weight 8 --undesirable-weight 2" in said[0]


def test_the_advice_when_it_is_followed_needs_no_other_advice_and_gives_the_same_weights():
    source = random.Random(0)
    counts = [(3, 7), (7, 3), (30, 69), (1, 1), (1, 5000), (5000, 1)]
    counts += [(source.randint(1, 900), source.randint(1, 900)) for _ in range(300)]
    for good, bad in counts:
        for own in ({}, {"desirable_weight": 0.7}, {"undesirable_weight": 1 / 3}):
            weights, said = prepared(good, bad, **own)
            if not said:
                continue
            typed = re.search(r"--desirable-weight (\S+) --undesirable-weight ([^\s;]+)", said[0])
            followed, silence = prepared(good, bad, **dict(zip(WEIGHTS, map(float, typed.groups()), strict=True)))
            assert silence == [], (good, bad, own, said)
            # λ_D·n_D / (λ_U·n_U) comes to lie at an end of the rule, up to the fourth digit of a weight.
            ratio = followed[0] * good / (followed[1] * bad)
            assert min(abs(ratio - 1), abs(ratio - 4 / 3)) < 2e-3
            assert own or followed == weights


@pytest.mark.parametrize(("good", "bad", "mark"), [(3, 0, "good"), (0, 3, "bad")])
def test_answers_of_one_mark_only_are_named(good, bad, mark):
    weights, said = prepared(good, bad)
    assert weights == [1.0, 1.0] and f"All answers are marked {mark}" in said[0]


@pytest.mark.parametrize(
    ("values", "says"),
    [({"beta": 0.0}, "beta must be above 0"), ({"desirable_weight": -1.0}, "at least 0"),
     ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "one of them above")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(values, says):
    with pytest.raises(ZooError, match=says):
        options(KTO, **values)


def test_what_is_measured_comes_from_the_mismatched_answers_alone():
    batch, models = stand_ins(
        policy={"completion": tensor([-1.0, -9.0]), "mismatched": tensor([-4.0, -3.0])},
        reference={"completion": tensor([-2.0, -2.0]), "mismatched": tensor([-5.0, -5.0])},
        fields={"label": torch.tensor([True, False])},
    )
    close(measured(KTO(), batch, models, options(KTO))["kl"], 1.5)


def test_a_run_says_in_plain_lines_how_the_marks_are_balanced(tmp_path, tiny_folder, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"say {i}", "completion": f"it is {i}", "label": i % 4 == 0} for i in range(8)]
    run = trainer(tmp_path, tiny_folder)("kto", data=write_rows(tmp_path / "rows.jsonl", rows), quiet=False)
    printed = capsys.readouterr()
    assert "Note: 2 good and 6 bad answers" in printed.out and "--desirable-weight 3" in printed.out
    assert "UserWarning" not in printed.out + printed.err
    share = run.log_history[0]["desirable"]
    assert losses(run)[0] == pytest.approx(0.5 * (3 * share + 1 - share), rel=1e-5)
