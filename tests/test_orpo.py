"""ORPO: worked numbers of the odds ratio, values and gradients, its stability, and the tokens of the likelihood."""

import decimal
import math

import pytest
import torch
from formulas import backward, close, evaluate, lengths_of, metric, options, sides, tensor, together

from zoo.api import Answer, default_collate
from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.models.roles import Models, Policy

ORPO = load_algorithm("orpo")[1]
PAIR = ("chosen", "rejected")


def averages(vectors):
    """Answers of one token, so that the mean is what is given."""
    inputs = vectors["orpo.loss"]["inputs"]
    return {side: tensor(inputs[f"avg_{side}_logps"]).requires_grad_() for side in PAIR}


def test_the_worked_numbers_of_the_odds_ratio(vectors):
    expected, inputs = vectors["orpo.loss"]["expected"], vectors["orpo.loss"]["inputs"]
    assert options(ORPO).odds_ratio_weight == inputs["lam"]
    loss = evaluate(ORPO(), averages(vectors))
    close(loss.metrics["log_odds"], expected["log_odds"])
    close(loss.metrics["odds_ratio"], expected["or_losses"])
    close(metric(loss, "odds_ratio"), expected["or_loss"])
    close(loss.metrics["rewards/chosen"], expected["chosen_rewards"])
    close(loss.metrics["rewards/rejected"], expected["rejected_rewards"])
    nll = -sum(inputs["avg_chosen_logps"]) / 4
    close(loss.mean(), expected["loss"] - inputs["nll_chosen"] + nll)


def test_the_worked_gradients_of_the_odds_ratio(vectors):
    expected, weight = vectors["orpo.loss"]["expected"], 0.1
    policy = averages(vectors)
    backward(evaluate(ORPO(), policy))
    # The likelihood adds −1/4 to each chosen answer: four answers of one token.
    close(policy["chosen"].grad, weight * tensor(expected["grad_or_wrt_avg_chosen"]) - 0.25)
    close(policy["rejected"].grad, weight * tensor(expected["grad_or_wrt_avg_rejected"]))


def test_odds_are_of_the_mean_a_token_and_not_of_the_whole_answer(vectors):
    case = vectors["orpo.sum_vs_avg"]
    loss = evaluate(ORPO(), sides(case, *PAIR), lengths=lengths_of(case, *PAIR))
    close(loss.metrics["log_odds"], case["expected"]["log_odds_avg"])
    assert (loss.metrics["log_odds"] - tensor(case["expected"]["WRONG_log_odds_sum"])).abs().max() > 1


@pytest.mark.parametrize("p", [-1e-30, -1e-12, -1e-8, -1e-6, -1e-3, -0.3, -math.log(2), -0.7, -5.0, -40.0])
@pytest.mark.parametrize(("kind", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_log_odds_are_exact_near_certainty_and_far_from_it(p, kind, relative):
    """Against 60 decimal digits: log1p(−exp p) alone has lost most of its own by −1e-6."""
    rejected = torch.tensor([-1.0], dtype=kind)
    loss = evaluate(ORPO(), {"chosen": torch.tensor([p], dtype=kind), "rejected": rejected})
    with decimal.localcontext(prec=60):
        exact = [decimal.Decimal(x) for x in (float(torch.tensor(p, dtype=kind)), -1.0)]
        odds = [x - (1 - x.exp()).ln() for x in exact]
    assert float(loss.metrics["log_odds"]) == pytest.approx(float(odds[0] - odds[1]), rel=relative)


@pytest.mark.parametrize("p", [-1e-20, -1e-8, -1e-7, -0.5, -3.0])
def test_near_certainty_the_slope_of_the_log_odds_is_that_of_the_formula(p):
    """d log odds / dp = 1 / (1 − exp p), 1e8 at −1e-8; in the loss times −λ σ(−log odds), beside the likelihood."""
    chosen = torch.tensor([p], requires_grad=True)
    loss = evaluate(ORPO(), {"chosen": chosen, "rejected": torch.tensor([-1.0])})
    loss.numerator.backward()
    with decimal.localcontext(prec=60):
        odds, other = (x.exp() / (1 - x.exp()) for x in (decimal.Decimal(float(chosen)), decimal.Decimal(-1)))
        slope = -1 - float(other / (odds + other) / (1 - decimal.Decimal(float(chosen)).exp())) / 10
    assert float(chosen.grad) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_certain_and_impossible_answers_stay_finite_in_value_and_gradient(kind):
    chosen = torch.tensor([0.0, -1e4, -1e-9, 0.0, -1e-30, -1.0], dtype=kind, requires_grad=True)
    rejected = torch.tensor([-1e4, 0.0, -1e-9, 0.0, -1.0, -1e-30], dtype=kind, requires_grad=True)
    loss = evaluate(ORPO(), {"chosen": chosen, "rejected": rejected})
    loss.numerator.backward()
    assert loss.values.isfinite().all() and chosen.grad.isfinite().all() and rejected.grad.isfinite().all()


def test_the_gradient_is_the_slope_of_the_value():
    generator = torch.Generator().manual_seed(0)
    given = tuple((-torch.rand(3, n, generator=generator, dtype=torch.float64)).requires_grad_() for n in (4, 6))

    def value(chosen, rejected):
        return evaluate(ORPO(), {"chosen": chosen, "rejected": rejected}, odds_ratio_weight=2.0).values

    assert torch.autograd.gradcheck(value, given)


def test_the_likelihood_is_a_mean_over_all_tokens_whatever_the_cut(vectors):
    case = vectors["orpo.sum_vs_avg"]
    policy, lengths = sides(case, *PAIR, grad=False), lengths_of(case, *PAIR)
    known = {"chosen_length": tensor(sum(lengths["chosen"]) / 4)}
    whole = evaluate(ORPO(), policy, lengths=lengths)
    nll = float(-policy["chosen"].sum() / sum(lengths["chosen"]))
    assert metric(whole, "nll") == pytest.approx(nll)
    close(whole.mean(), nll + 0.1 * metric(whole, "odds_ratio"))

    def part(places):
        rows = {field: policy[field][places] for field in PAIR}
        counts = {field: [lengths[field][i] for i in places] for field in PAIR}
        return evaluate(ORPO(), rows, lengths=counts, known=known)

    for parts in ([[3], [0, 1], [2]], [[2, 0], [1, 3]]):
        close(together([part(places) for places in parts]), whole.mean().detach())


RECORDS = [
    {"row": 1, "chosen": Answer.of([1, 2, 3], [4, 5]), "rejected": Answer.of([1, 2, 3], [10, 11, 12])},
    {"row": 2, "chosen": Answer.of([6, 9, 9, 9, 9], [7, 8, 9, 20]), "rejected": Answer.of([6, 9, 9, 9, 9], [12])},
]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_over_all_tokens_the_prompt_counts_and_the_odds_stay_those_of_the_answer(tiny_model, layout):
    models = Models(policy=Policy(tiny_model, layout))

    def evaluated(**values):
        config = options(ORPO, **values)
        batch = ORPO().collate(RECORDS, config)
        sums = ORPO().measure(batch)["chosen_length"]
        batch.measured = {"chosen_length": sums[0] / sums[1]}
        return ORPO().loss(batch, models, config)

    answer, everything = evaluated(), evaluated(nll_over="all")
    for name in ("log_odds", "logps/chosen", "logps/rejected", "rewards/margins"):
        torch.testing.assert_close(everything.metrics[name], answer.metrics[name], rtol=1e-4, atol=1e-5)
    # From one ordinary forward pass of each text: all tokens are predicted but the first.
    total, count = 0.0, 0
    for record in RECORDS:
        ids = torch.cat([record["chosen"].prompt, record["chosen"].completion])
        logits = tiny_model(ids[None]).logits[0, :-1].log_softmax(-1)
        total -= float(logits.gather(1, ids[1:, None]).sum().detach())
        count += len(ids) - 1
    assert metric(everything, "nll") == pytest.approx(total / count, rel=1e-4)
    assert metric(everything, "nll") != pytest.approx(metric(answer, "nll"), rel=1e-2)
    odds = 0.1 * metric(everything, "odds_ratio")
    assert float(everything.mean().detach()) == pytest.approx(total / count + odds, rel=1e-4)


def test_over_the_answer_the_batch_is_the_ordinary_one():
    made = ORPO().collate(RECORDS, options(ORPO))
    plain = default_collate(RECORDS)
    assert list(made) == list(plain) and made.chosen[0] is RECORDS[0]["chosen"]


def test_no_reference_is_asked_for():
    assert ORPO().roles(options(ORPO)) == ("policy",)


@pytest.mark.parametrize("weight", [0.0, -0.1])
def test_a_weight_that_leaves_no_preference_is_refused(weight):
    with pytest.raises(ZooError, match="odds_ratio_weight must be above 0"):
        options(ORPO, odds_ratio_weight=weight)
