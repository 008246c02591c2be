"""PRM's formulas against worked numbers, values and gradients, and what labels mean."""

import pytest
import torch

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.options.fields import build
from zoo.testing import stand_ins
from zoo.values.types import metric_sums

PRM = load_algorithm("prm")[1]


def options(**values):
    return build(PRM.Config, values, what="prm")


def evaluate(scores, labels, **values):
    """The loss of solutions with given scores of steps (rows of any length), and the tensor, for its gradient."""
    width = max(len(row) for row in scores)
    padded = torch.tensor([row + [9.0] * (width - len(row)) for row in scores], dtype=torch.float64).requires_grad_()
    ends = [list(range(len(row))) for row in scores]
    batch, models = stand_ins(scores={"completion": padded}, fields={"step_ends": ends, "labels": labels})
    return PRM().loss(batch, models, options(**values)), padded


def metric(loss, name):
    total, weight = metric_sums(loss.metrics)[name]
    return float(total / weight)


def test_the_score_is_the_difference_of_two_logits(vectors):
    case, expected = vectors["rm.process_reward"], vectors["rm.process_reward"]["expected"]
    logits = torch.tensor(case["inputs"]["step_logits_neg_pos"], dtype=torch.float64)
    scores = (logits[:, 1] - logits[:, 0]).tolist()
    loss, given = evaluate([scores], [case["inputs"]["step_labels"]])
    assert loss.values[0].tolist() == pytest.approx(expected["losses"])
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    assert given.grad[0].tolist() == pytest.approx([pair[1] for pair in expected["grad"]])
    assert torch.sigmoid(given.detach())[0].tolist() == pytest.approx(expected["p_step_correct"])
    assert metric(loss, "product/flawed") == pytest.approx(expected["score_product"])
    assert metric(loss, "min/flawed") == pytest.approx(expected["score_min"])


def test_padding_and_ragged_solutions_change_nothing():
    together, _ = evaluate([[1.0, -2.0, 0.5], [3.0]], [[1, 1, 0], [1]])
    first, second = evaluate([[1.0, -2.0, 0.5]], [[1, 1, 0]])[0], evaluate([[3.0]], [[1]])[0]
    assert together.numerator.item() == pytest.approx((first.numerator + second.numerator).item())
    # The mean is over steps, not over solutions.
    assert float(together.denominator) == 4
    assert metric(together, "product/sound") == pytest.approx(float(torch.sigmoid(torch.tensor(3.0))))


def test_nothing_is_learned_behind_the_first_wrong_step():
    labels = [[1, 0, 1, 0]]
    assert evaluate([[0.0] * 4], labels)[0].weights.tolist() == [[1, 1, 0, 0]]
    assert evaluate([[0.0] * 4], labels, until_first_error=False)[0].weights.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("zero", "weights", "accuracy"),
    [("right", [[1, 1, 1]], 1.0), ("skip", [[1, 0, 1]], 1.0), ("wrong", [[1, 1, 0]], 0.5)],
)
def test_what_a_zero_means_is_an_option(zero, weights, accuracy):
    loss, _ = evaluate([[1.0, 1.0, -1.0]], [[1, 0, -1]], zero=zero)
    assert loss.weights.tolist() == weights
    assert metric(loss, "accuracy") == accuracy


def test_labels_whose_zero_may_mean_two_things_are_refused():
    records = [{"labels": [1, 0]}, {"labels": [0, -1]}]
    with pytest.raises(ZooError, match="0 may mean neutral"):
        PRM().prepare(records, options())
    assert PRM().prepare(records, options(zero="right")) is records
    assert PRM().prepare(records[:1], options()) == records[:1]


def test_metrics_tell_right_steps_from_wrong_ones_and_find_the_first_error():
    scores, labels = [[2.0, -1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [[1, 1, 0], [1, 0], [1, 0]]
    loss, _ = evaluate(scores, labels)
    assert metric(loss, "accuracy/right") == pytest.approx(3 / 4)
    assert metric(loss, "accuracy/wrong") == pytest.approx(1 / 3)
    # Of three flawed solutions the last one is seen through; the first is accused too early, the second never.
    assert metric(loss, "first_error") == pytest.approx(1 / 3)
    assert set(loss.metrics) <= set(PRM.metrics)
