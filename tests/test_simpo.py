"""SimPO: worked numbers, values and gradients; γ, the likelihood term, and that no reference is touched."""

import pytest
import torch
from formulas import backward, close, evaluate, lengths_of, metric, options, sides, tensor, together

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError

SimPO = load_algorithm("simpo")[1]
PAIR = ("chosen", "rejected")


def worked(vectors, name, **values):
    case = vectors[name]
    policy = sides(case, *PAIR)
    given = {"beta": case["inputs"]["beta"], "gamma": case["inputs"]["gamma"]}
    return evaluate(SimPO(), policy, lengths=lengths_of(case, *PAIR), **given, **values), policy


def test_the_worked_numbers(vectors):
    expected = vectors["simpo.b2.0_g1.0"]["expected"]
    loss, policy = worked(vectors, "simpo.b2.0_g1.0")
    backward(loss)
    close(loss.values, expected["losses"])
    close(loss.mean(), expected["loss"])
    close(policy["chosen"].grad, expected["grad_policy_chosen"])
    close(policy["rejected"].grad, expected["grad_policy_rejected"])
    close(loss.metrics["rewards/chosen"], expected["chosen_rewards"])
    close(loss.metrics["rewards/rejected"], expected["rejected_rewards"])
    close(loss.metrics["logps/chosen"], expected["avg_chosen"])
    # The third pair is a tie, which the worked number counts as lost, and which counts half here.
    assert metric(loss, "rewards/accuracies") == expected["accuracy"] + 0.5 / 4


def test_gamma_is_subtracted_as_it_is_and_not_times_beta(vectors):
    inputs = vectors["simpo.b2.0_g1.0"]["inputs"]
    assert inputs["gamma"] == inputs["beta"] * inputs["gamma_beta_ratio"]
    even = {"chosen": tensor([-2.0]), "rejected": tensor([-2.0])}
    for beta in (1.0, 10.0):
        close(evaluate(SimPO(), even, beta=beta, gamma=0.7).mean(), -torch.nn.functional.logsigmoid(tensor(-0.7)))


def test_the_likelihood_term_is_a_mean_over_all_chosen_tokens(vectors):
    expected = vectors["simpo.with_sft"]["expected"]
    loss, _ = worked(vectors, "simpo.with_sft", sft_weight=vectors["simpo.with_sft"]["inputs"]["sft_weight"])
    close(loss.mean(), expected["loss"])
    close(metric(loss, "nll"), expected["sft_loss"])
    close(worked(vectors, "simpo.with_sft")[0].mean(), expected["simpo_loss"])


def test_the_likelihood_term_does_not_depend_on_the_cut(vectors):
    case = vectors["simpo.with_sft"]
    policy, lengths = sides(case, *PAIR, grad=False), lengths_of(case, *PAIR)
    known = {"chosen_length": tensor(sum(lengths["chosen"]) / 4)}

    def part(places):
        rows = {field: policy[field][places] for field in PAIR}
        counts = {field: [lengths[field][i] for i in places] for field in PAIR}
        return evaluate(SimPO(), rows, lengths=counts, known=known, sft_weight=0.1)

    for parts in ([[0, 1, 2, 3]], [[3], [0, 1], [2]], [[2, 0], [1, 3]]):
        close(together([part(places) for places in parts]), case["expected"]["loss"])


def test_label_smoothing_mixes_in_the_flipped_pair():
    pair = {"chosen": tensor([-1.0]), "rejected": tensor([-1.5])}
    z = tensor(2.0 * 0.5 - 1.0)
    low, high = -torch.nn.functional.logsigmoid(-z), -torch.nn.functional.logsigmoid(z)
    close(evaluate(SimPO(), pair, label_smoothing=0.1).mean(), 0.9 * high + 0.1 * low)


def test_the_likelihood_term_pulls_every_chosen_token_alike(vectors):
    """Sum over tokens divided by those of the step: −0.1/55 beside the gradient of the preference term."""
    loss, policy = worked(vectors, "simpo.with_sft", sft_weight=0.1)
    backward(loss)
    alone = vectors["simpo.b2.0_g1.0"]["expected"]
    close(policy["chosen"].grad, tensor(alone["grad_policy_chosen"]) - 0.1 / 55)
    close(policy["rejected"].grad, alone["grad_policy_rejected"])


def test_label_smoothing_pulls_back_where_a_pair_is_surer_than_its_label():
    """At z = log((1 − ε)/ε) nothing pulls; its slope elsewhere is β(ε σ(z) − (1 − ε) σ(−z))."""
    rest = torch.log(tensor(9.0))
    for z, e in ((rest, 0.1), (tensor(0.3), 0.1), (tensor(-1.0), 0.25)):
        chosen = ((z + 1.0) / 2.0).requires_grad_()
        pair = {"chosen": chosen[None], "rejected": tensor([0.0])}
        backward(evaluate(SimPO(), pair, label_smoothing=e))
        slope = 2.0 * (e * torch.sigmoid(z) - (1 - e) * torch.sigmoid(-z))
        assert float(chosen.grad) == pytest.approx(float(slope), abs=1e-12)
        assert (abs(slope) < 1e-12) == (z is rest)


def test_the_gradient_is_the_slope_of_the_value():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: -torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    for values in ({}, {"sft_weight": 0.7}, {"label_smoothing": 0.2}, {"sft_weight": 0.7, "label_smoothing": 0.2}):

        def value(chosen, rejected, values=values):
            return evaluate(SimPO(), {"chosen": chosen, "rejected": rejected}, **values).values

        assert torch.autograd.gradcheck(value, (draw(3, 4).requires_grad_(), draw(3, 6).requires_grad_()))


def test_lengths_are_those_of_the_data(vectors):
    loss, _ = worked(vectors, "simpo.b2.0_g1.0")
    assert (metric(loss, "lengths/chosen"), metric(loss, "lengths/rejected")) == (55 / 4, 67 / 4)


def test_no_reference_is_asked_for():
    assert SimPO().roles(options(SimPO)) == ("policy",)


def test_far_apart_answers_stay_finite():
    for kind in (torch.float32, torch.float64):
        far = torch.tensor([-1e4, -1e-3], dtype=kind, requires_grad=True)
        near = torch.tensor([-1e-3, -1e4], dtype=kind, requires_grad=True)
        loss = evaluate(SimPO(), {"chosen": far, "rejected": near}, label_smoothing=0.1, sft_weight=1.0)
        loss.numerator.backward()
        assert loss.values.isfinite().all() and far.grad.isfinite().all() and near.grad.isfinite().all()


@pytest.mark.parametrize(
    ("values", "says"),
    [({"beta": 0.0}, "beta"), ({"gamma": -0.5}, "gamma"), ({"label_smoothing": 0.5}, "label_smoothing"),
     ({"sft_weight": -1.0}, "sft_weight")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(values, says):
    with pytest.raises(ZooError, match=says):
        options(SimPO, **values)
