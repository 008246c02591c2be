"""Values that plugins and the core exchange: cut and reordered freely, numerators never means, NaN never zero."""

import copy
import math

import pytest
import torch

from zoo.errors import ZooError
from zoo.values.types import Answer, Answers, Batch, Loss, Ragged, TokenLogps, metric_sums, pad


def answers():
    return Answers([Answer.of([1, 2], [3, 4, 5]), Answer.of([1], [6], ended=False, cut=True), Answer.of([], [7, 8])])


def test_an_answer_is_made_of_plain_lists_and_counts_every_token_without_a_mask():
    answer = Answer.of([1, 2], [3, 4, 5])
    assert answer.prompt.dtype == answer.completion.dtype == torch.long
    assert answer.mask.tolist() == [True, True, True]
    assert len(answer) == 5
    assert Answer.of([], [9], mask=[False]).mask.tolist() == [False]


def test_answers_are_ragged_and_padded_only_where_a_rectangle_is_asked_for():
    found = answers()
    assert [len(prompt) for prompt in found.prompts] == [2, 1, 0]
    assert found.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert found.lengths.tolist() == [3, 1, 2]
    assert found.ended.tolist() == [True, False, True]
    assert found.cut.tolist() == [False, True, False]


def test_answers_are_cut_and_reordered_without_touching_the_tokens():
    found = answers().select([2, 0])
    assert [answer.completion.tolist() for answer in found] == [[7, 8], [3, 4, 5]]
    assert isinstance(answers()[1:], Answers) and len(answers()[1:]) == 2
    assert answers()[1].completion.tolist() == [6]


def test_behaviour_log_probs_are_padded_with_zero_and_their_absence_is_explained():
    sampled = Answers([Answer.of([1], [2, 3], behaviour=torch.tensor([-1.0, -2.0])),
                       Answer.of([1], [2], behaviour=torch.tensor([-3.0]))])  # fmt: skip
    assert sampled.behaviour.tolist() == [[-1.0, -2.0], [-3.0, 0.0]]
    assert sampled[0].to("cpu").behaviour.tolist() == [-1.0, -2.0]
    with pytest.raises(ZooError, match="no log-probs of a sampler"):
        _ = answers().behaviour


def test_padding_is_at_least_one_wide_so_that_sums_are_defined():
    assert pad([torch.zeros(0), torch.zeros(0)], 0.0).shape == (2, 1)
    assert pad([], 0.0).shape == (0, 1)
    assert pad([torch.tensor([1, 2]), torch.tensor([3])], 9).tolist() == [[1, 2], [3, 9]]


def test_token_logps_sum_and_mean_over_counted_tokens_only():
    logps = TokenLogps(
        torch.tensor([[-1.0, -2.0, -9.0], [-4.0, 0.0, 0.0], [-5.0, -5.0, -5.0]]),
        torch.tensor([[True, True, False], [True, False, False], [False, False, False]]),
    )
    assert logps.lengths.tolist() == [2, 1, 0]
    assert logps.sum().tolist() == [-3.0, -4.0, 0.0]
    assert logps.mean().tolist() == [-1.5, -4.0, 0.0], "an answer without counted tokens has mean 0, not NaN"


def test_a_batch_selects_rows_of_every_kind_of_field_and_keeps_what_was_measured():
    inner = Batch(x=torch.arange(3))
    batch = Batch(completion=answers(), label=torch.tensor([1, 0, 1]), text=["a", "b", "c"], inner=inner)
    batch.measured = {"reference_point": torch.tensor(0.5)}
    part = batch.select([2, 1])
    assert len(batch) == 3 and len(part) == 2
    assert part.label.tolist() == [1, 0]
    assert part["text"] == ["c", "b"]
    assert part.inner.x.tolist() == [2, 1]
    assert [len(answer.completion) for answer in part.completion] == [2, 1]
    assert float(part.measured["reference_point"]) == 0.5
    assert float(batch.to("cpu").measured["reference_point"]) == 0.5
    assert sorted(batch) == ["completion", "inner", "label", "text"]


def test_a_batch_refuses_fields_of_unequal_length_and_names_what_it_has():
    with pytest.raises(ValueError, match=r"same length.*'a': 2.*'b': 3"):
        Batch(a=torch.zeros(2), b=torch.zeros(3))
    with pytest.raises(ValueError, match="at least one field"):
        Batch()
    with pytest.raises(AttributeError, match=r"no field 'chosen', only \['completion'\]"):
        _ = Batch(completion=answers()).chosen


def test_a_loss_is_numerators_and_denominators():
    per_example = Loss.per_example(torch.tensor([1.0, 3.0]))
    assert (float(per_example.numerator), float(per_example.denominator)) == (4.0, 2.0)
    mask = torch.tensor([[True, True], [True, False]])
    per_token = Loss.per_token(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), mask)
    assert (float(per_token.numerator), float(per_token.denominator)) == (6.0, 3.0)
    weighted = Loss.weighted(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5]))
    assert (float(weighted.numerator), float(weighted.denominator), float(weighted.mean())) == (5.0, 2.0, 2.5)


def test_weights_of_a_loss_carry_no_gradient():
    weights = torch.tensor([0.5, 1.5], requires_grad=True)
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    loss = Loss.weighted(values, weights)
    (loss.numerator / loss.denominator).backward()
    assert weights.grad is None
    assert values.grad.tolist() == [0.25, 0.75]


def test_a_loss_without_a_single_counted_token_is_zero_and_so_is_its_gradient():
    values = torch.ones(2, 3, requires_grad=True)
    loss = Loss.per_token(values, torch.zeros(2, 3, dtype=torch.bool))
    loss.numerator.backward()
    assert [float(x.detach()) for x in (loss.numerator, loss.denominator, loss.mean())] == [0.0, 0.0, 0.0]
    assert values.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loss.per_example(torch.zeros(2, 3)), r"\[B\], got \(2, 3\)"),
        (lambda: Loss.per_example(torch.tensor(1.0)), r"got \(\)"),
        (lambda: Loss.per_token(torch.zeros(2, 3), torch.ones(2, 2)), r"\(2, 3\) and mask \(2, 2\)"),
        (lambda: Loss.weighted(torch.zeros(2), torch.ones(1)), r"\(2,\) and weights \(1,\)"),
    ],
)
def test_a_loss_of_the_wrong_shape_says_which(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_metrics_are_summed_with_missing_entries_left_out():
    sums = metric_sums(
        {
            "margin": torch.tensor([1.0, float("nan"), 3.0]),
            "accuracy": torch.tensor([True, False]),
            "weighted": (torch.tensor([2.0, 4.0]), torch.tensor([3.0, 1.0])),
            "nothing": torch.tensor([float("nan")]),
            "scalar": torch.tensor(5.0),
        }
    )
    as_numbers = {name: (float(total), float(count)) for name, (total, count) in sums.items()}
    assert as_numbers == {
        "margin": (4.0, 2.0),
        "accuracy": (1.0, 2.0),
        "weighted": (10.0, 4.0),
        "nothing": (0.0, 0.0),
        "scalar": (5.0, 1.0),
    }
    assert sums["margin"][0].dtype == torch.float64


def test_an_infinite_metric_stays_infinite_and_is_not_counted_where_it_has_no_weight():
    total, count = metric_sums({"x": torch.tensor([1.0, float("inf")])})["x"]
    assert math.isinf(float(total)) and float(count) == 2
    values, weights = torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 0.0])
    total, count = metric_sums({"x": (values, weights)})["x"]
    assert (float(total), float(count)) == (1.0, 1.0)


def test_metrics_of_the_shape_of_the_mask_are_means_over_the_same_tokens():
    mask = torch.tensor([[True, False], [True, True]])
    loss = Loss.per_token(torch.zeros(2, 2), mask, {"entropy": torch.tensor([[1.0, 9.0], [2.0, 3.0]])})
    total, count = metric_sums(loss.metrics)["entropy"]
    assert (float(total), float(count)) == (6.0, 3.0)


def test_metrics_keep_no_gradient_graph():
    value = torch.ones(2, requires_grad=True)
    total, _ = metric_sums({"x": value * 2})["x"]
    assert not total.requires_grad


def test_a_batch_can_be_copied():
    batch = Batch(weight=torch.tensor([1.0, 2.0]))
    batch.measured = {"mean": torch.tensor(3.0)}
    for again in (copy.copy(batch), copy.deepcopy(batch)):
        assert again.weight.tolist() == [1.0, 2.0] and float(again.measured["mean"]) == 3.0


def test_ragged_numbers_are_as_wide_as_the_answers_left_in_a_batch():
    answers = Answers([Answer.of([1], [2, 3, 4]), Answer.of([1], [5])])
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    batch = Batch(answers=answers, old=Ragged(values, answers))
    batch.on_policy = True
    assert batch.old.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]
    second = batch.select([1])
    assert second.old.tolist() == [[4.0]] and second["old"].shape == second.answers.mask.shape
    assert second.on_policy and second.to("cpu").on_policy
    assert not Ragged(values.clone().requires_grad_() * 1.0, answers).rows[0].requires_grad, "no graph is kept"
    with pytest.raises(ValueError, match="There are 2 rows of numbers for 1"):
        Ragged(values, answers[:1])


def test_the_correction_of_answers_is_one_where_none_was_given():
    answers = Answers([Answer.of([1], [2, 3], correction=torch.tensor([0.5, 2.0])), Answer.of([1], [5])])
    assert answers.correction.tolist() == [[0.5, 2.0], [1.0, 1.0]]
