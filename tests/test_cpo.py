"""CPO: worked numbers, values and gradients, the likelihood term over all tokens, and its options."""

import pytest
import torch
from formulas import backward, close, evaluate, lengths_of, metric, options, sides, tensor, together

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError

CPO = load_algorithm("cpo")[1]
PAIR = ("chosen", "rejected")


def worked(vectors, **values):
    case = vectors["cpo.sigmoid"]
    policy = sides(case, *PAIR)
    return evaluate(CPO(), policy, lengths=lengths_of(case, *PAIR), **values), policy, case["expected"]


def test_the_worked_numbers_with_the_defaults_of_the_paper(vectors):
    inputs = vectors["cpo.sigmoid"]["inputs"]
    assert (options(CPO).beta, options(CPO).nll_weight) == (inputs["beta"], inputs["cpo_alpha"])
    loss, _, expected = worked(vectors)
    close(loss.mean(), expected["loss"])
    close(metric(loss, "nll"), expected["nll"])
    close(metric(loss, "prefer"), expected["prefer_loss"])
    close(loss.metrics["prefer"], expected["prefer_losses"])


def test_the_gradients_of_the_preference_term_and_of_the_likelihood(vectors):
    loss, policy, expected = worked(vectors, nll_weight=0.0)
    backward(loss)
    close(policy["chosen"].grad, expected["grad_prefer_chosen"])
    close(policy["rejected"].grad, -tensor(expected["grad_prefer_chosen"]))
    loss, policy, _ = worked(vectors)
    backward(loss)
    tokens = sum(vectors["cpo.sigmoid"]["inputs"]["chosen_lengths"])
    close(policy["chosen"].grad, tensor(expected["grad_prefer_chosen"]) - 1 / tokens)


def test_the_loss_does_not_depend_on_the_cut(vectors):
    case = vectors["cpo.sigmoid"]
    policy, lengths = sides(case, *PAIR, grad=False), lengths_of(case, "chosen")["chosen"]
    known = {"chosen_length": tensor(sum(lengths) / 4)}

    def part(places):
        rows = {field: policy[field][places] for field in PAIR}
        return evaluate(CPO(), rows, lengths={"chosen": [lengths[i] for i in places]}, known=known)

    for parts in ([[3], [0, 1], [2]], [[2, 0], [1, 3]]):
        close(together([part(places) for places in parts]), case["expected"]["loss"])


def test_the_hinge_ends_at_a_margin_of_one():
    pairs = {"chosen": tensor([-10.0, -10.0]), "rejected": tensor([-15.0, -25.0])}
    loss = evaluate(CPO(), pairs, loss="hinge", nll_weight=0.0)
    close(loss.values, [0.5, 0.0])


def test_label_smoothing_mixes_in_the_flipped_pair():
    pair = {"chosen": tensor([-10.0]), "rejected": tensor([-30.0])}
    low, high = (-torch.nn.functional.logsigmoid(tensor(z)) for z in (2.0, -2.0))
    close(evaluate(CPO(), pair, label_smoothing=0.2, nll_weight=0.0).mean(), 0.8 * low + 0.2 * high)


def test_no_reference_is_asked_for():
    assert CPO().roles(options(CPO)) == ("policy",)


@pytest.mark.parametrize(
    ("values", "says"),
    [({"beta": 0.0}, "beta"), ({"label_smoothing": 0.5}, "label_smoothing"), ({"nll_weight": -0.1}, "nll_weight"),
     ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing has no meaning")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(values, says):
    with pytest.raises(ZooError, match=says):
        options(CPO, **values)
