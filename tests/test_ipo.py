"""IPO: worked numbers of both reductions, values and gradients, and the target it comes to rest at."""

import dataclasses

import pytest
import torch
from formulas import backward, close, evaluate, lengths_of, metric, options, sides, tensor

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError

IPO = load_algorithm("ipo")[1]
PAIR = ("chosen", "rejected")


def worked(vectors, name, **values):
    case = vectors[name]
    policy = sides(case, *PAIR)
    frozen = sides(case, *PAIR, role="ref", grad=False)
    return evaluate(IPO(), policy, frozen, lengths=lengths_of(case, *PAIR), tau=case["inputs"]["tau"], **values), policy


@pytest.mark.parametrize(
    ("name", "reduction", "h"), [("ipo.sum_tau0.1", "sum", "h"), ("ipo.avg_tau0.1", "mean", "h_avg")]
)
def test_the_worked_numbers_of_both_reductions(vectors, name, reduction, h):
    expected = vectors[name]["expected"]
    loss, policy = worked(vectors, name, reduction=reduction)
    backward(loss)
    close(loss.values, expected["losses"])
    close(loss.mean(), expected["loss"])
    close(policy["chosen"].grad, expected["grad_policy_chosen"])
    close(policy["rejected"].grad, expected["grad_policy_rejected"])
    close(loss.metrics["h"], expected[h])
    close(loss.metrics["h/distance"], tensor(expected[h]) - expected["target"])
    close(loss.metrics["rewards/margins"], tensor(expected[h]) * 0.1)


def test_the_mean_is_what_is_taken_when_nothing_is_said(vectors):
    close(worked(vectors, "ipo.avg_tau0.1")[0].mean(), vectors["ipo.avg_tau0.1"]["expected"]["loss"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_where_policy_and_reference_agree_it_starts_at_the_square_of_the_target(reduction, tau):
    same = {"chosen": tensor([-12.0]), "rejected": tensor([-30.0])}
    loss = evaluate(IPO(), same, same, lengths={"chosen": [4], "rejected": [9]}, tau=tau, reduction=reduction)
    close(loss.mean(), 1 / (4 * tau**2))
    assert metric(loss, "h") == 0.0


@pytest.mark.parametrize(("reduction", "lengths"), [("sum", [4, 9]), ("mean", [4, 9])])
def test_at_the_target_nothing_pulls_any_more_and_beyond_it_pulls_back(reduction, lengths):
    frozen = {"chosen": tensor([-12.0]), "rejected": tensor([-30.0])}

    def slope(h):
        chosen = tensor([-12.0 + h * (lengths[0] if reduction == "mean" else 1)]).requires_grad_()
        counts = {"chosen": lengths[:1], "rejected": lengths[1:]}
        policy = {"chosen": chosen, "rejected": tensor([-30.0])}
        evaluate(IPO(), policy, frozen, lengths=counts, tau=0.5, reduction=reduction).mean().backward()
        return float(chosen.grad)

    assert slope(1.0) == pytest.approx(0.0, abs=1e-12)
    assert slope(0.5) < 0 < slope(1.5)


def test_the_gradient_is_the_slope_of_the_value():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: -torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    frozen = {"chosen": draw(3, 4), "rejected": draw(3, 6)}
    for reduction in ("mean", "sum"):

        def value(chosen, rejected, reduction=reduction):
            return evaluate(IPO(), {"chosen": chosen, "rejected": rejected}, frozen, reduction=reduction).values

        assert torch.autograd.gradcheck(value, (draw(3, 4).requires_grad_(), draw(3, 6).requires_grad_()))


@pytest.mark.parametrize(("reduction", "start"), [("mean", 0.25), ("sum", 25.0)])
def test_a_tau_that_nobody_gave_is_that_of_the_reduction_also_where_a_runs_file_is_taken(reduction, start):
    """As `--config run.yaml --reduction sum`: every option of the run before comes along."""
    before = dataclasses.asdict(options(IPO))
    same = {"chosen": tensor([-12.0]), "rejected": tensor([-30.0])}
    close(evaluate(IPO(), same, same, **{**before, "reduction": reduction}).mean(), start)
    # What was given stays.
    given = {**dataclasses.asdict(options(IPO, tau=0.5)), "reduction": reduction}
    close(evaluate(IPO(), same, same, **given).mean(), 1.0)


@pytest.mark.parametrize("tau", [0.0, -0.1])
def test_a_tau_that_means_nothing_is_refused(tau):
    with pytest.raises(ZooError, match="tau must be above 0"):
        options(IPO, tau=tau)
