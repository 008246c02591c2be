"""RM's formulas against worked numbers, values and gradients, and what each option means."""

import math
import re
import warnings

import pytest
import torch

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.options.fields import build
from zoo.testing import stand_ins
from zoo.values.records import ListedRecords
from zoo.values.types import metric_sums

RM = load_algorithm("rm")[1]


def options(**values):
    return build(RM.Config, values, what="rm")


def pairs(case, fields=None, lengths=None, **values):
    """The loss of pairs with given rewards, and the tensors, for their gradients."""
    inputs = case["inputs"]
    chosen = torch.tensor(inputs["chosen_rewards"], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor(inputs["rejected_rewards"], dtype=torch.float64, requires_grad=True)
    batch, models = stand_ins(scores={"chosen": chosen, "rejected": rejected}, fields=fields, lengths=lengths)
    return RM().loss(batch, models, options(**values)), chosen, rejected


def rankings(rewards, ranks, **values):
    tensors = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rewards]
    batch, models = stand_ins(scores={"completions": tensors}, fields={"ranks": ranks})
    return RM().loss(batch, models, options(**values)), tensors


def metric(loss, name):
    total, weight = metric_sums(loss.metrics)[name]
    return float(total / weight)


def close(found, expected):
    assert found.detach().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_bradley_terry(vectors):
    case, expected = vectors["rm.bradley_terry"], vectors["rm.bradley_terry"]["expected"]
    loss, chosen, rejected = pairs(case)
    close(loss.values, expected["losses"])
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    close(chosen.grad, expected["grad_chosen"])
    close(rejected.grad, expected["grad_rejected"])
    assert metric(loss, "accuracy") == expected["accuracy"]
    assert metric(loss, "margin") == pytest.approx(expected["mean_margin"])


def test_a_margin_must_be_won_by(vectors):
    case, expected = vectors["rm.margin_small"], vectors["rm.margin_small"]["expected"]
    margin = torch.tensor(case["inputs"]["margin"], dtype=torch.float64)
    loss, chosen, rejected = pairs(case, {"margin": margin})
    close(loss.values, expected["losses"])
    loss.mean().backward()
    close(chosen.grad, expected["grad_chosen"])
    close(rejected.grad, expected["grad_rejected"])
    plain = vectors["rm.bradley_terry"]["expected"]["losses"]
    close(pairs(case, {"margin": margin}, margin_scale=0.0)[0].values, plain)
    close(pairs(case, {"margin": torch.full((4,), math.nan)})[0].values, plain)


def test_centering(vectors):
    case, expected = vectors["rm.centering"], vectors["rm.centering"]["expected"]
    loss, chosen, rejected = pairs(case, centering=case["inputs"]["eta"])
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    close(chosen.grad, expected["grad_chosen"])
    close(rejected.grad, expected["grad_rejected"])


def test_a_soft_label_is_best_met_by_its_own_log_odds():
    p = 0.7
    best = math.log(p / (1 - p))
    case = {"inputs": {"chosen_rewards": [best, 0.3], "rejected_rewards": [0.0, 0.3]}}
    loss, chosen, _ = pairs(case, {"p_chosen": torch.tensor([p, math.nan])})
    # The entropy of the label is the floor; a pair without a label is sure.
    assert loss.values.tolist() == pytest.approx([-p * math.log(p) - 0.3 * math.log(0.3), math.log(2)])
    loss.numerator.backward()
    assert chosen.grad.tolist() == pytest.approx([0.0, -0.5], abs=1e-7)


def test_large_differences_stay_finite(vectors):
    case = vectors["rm.stability"]
    differences = case["inputs"]["rejected_minus_chosen"]
    chosen = torch.tensor([-d for d in differences], dtype=torch.float32)
    batch, models = stand_ins(scores={"chosen": chosen, "rejected": torch.zeros_like(chosen)})
    loss = RM().loss(batch, models, options())
    assert loss.values.tolist() == pytest.approx(case["expected"]["stable"], rel=1e-6)


def test_a_ranking_is_one_example_with_all_its_pairs(vectors):
    case, expected = vectors["rm.kwise_instructgpt"], vectors["rm.kwise_instructgpt"]["expected"]
    loss, rewards = rankings(case["inputs"]["rewards"], case["inputs"]["ranks"])
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    for row, gradient in zip(rewards, expected["grad"], strict=True):
        close(row.grad, gradient)
    assert loss.mean().item() != pytest.approx(expected["alt_pooled_over_all_pairs"], abs=1e-3)


def test_a_ranking_of_two_is_a_pair(vectors):
    inputs, expected = vectors["rm.bradley_terry"]["inputs"], vectors["rm.bradley_terry"]["expected"]
    rewards = [list(pair) for pair in zip(inputs["rejected_rewards"], inputs["chosen_rewards"], strict=True)]
    loss, _ = rankings(rewards, [[2, 1]] * 4)
    close(loss.values, expected["losses"])
    assert metric(loss, "accuracy") == expected["accuracy"]


def test_a_ranking_with_nothing_but_ties_weighs_nothing(vectors):
    loss, rewards = rankings([[1.0, 0.0], [3.0, 4.0]], [[1, 2], [1, 1]], centering=0.01)
    assert loss.weights.tolist() == [1.0, 0.0]
    assert loss.mean().item() == pytest.approx(math.log1p(math.exp(-1)) + 0.01)
    loss.mean().backward()
    assert rewards[1].grad.tolist() == [0.0, 0.0]
    assert metric(loss, "accuracy") == 1.0


def test_the_best_of_several(vectors):
    case, expected = vectors["rm.pick_best_of_4"], vectors["rm.pick_best_of_4"]["expected"]
    ranks = [2, 2, 2, 2]
    ranks[case["inputs"]["best"]] = 1
    loss, rewards = rankings([case["inputs"]["rewards"]], [ranks], ranking_loss="best_of_n")
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    close(rewards[0].grad, expected["grad"])
    assert rankings([[1.0, 2.0, 0.0]], [[1, 1, 2]], ranking_loss="best_of_n")[0].weights.tolist() == [0.0]


def test_plackett_luce(vectors):
    case, expected = vectors["rm.plackett_luce"], vectors["rm.plackett_luce"]["expected"]
    shuffled = [case["inputs"]["rewards"][i] for i in (2, 0, 1)]
    loss, rewards = rankings([shuffled], [[3, 1, 2]], ranking_loss="plackett_luce")
    assert loss.mean().item() == pytest.approx(expected["loss"])
    loss.mean().backward()
    close(rewards[0].grad, [expected["grad"][i] for i in (2, 0, 1)])
    assert rankings([[1.0, 2.0, 0.0]], [[1, 1, 2]], ranking_loss="plackett_luce")[0].weights.tolist() == [0.0]


def test_metrics_tell_length_from_skill():
    case = {"inputs": {"chosen_rewards": [1.0, 0.0, 2.0], "rejected_rewards": [0.0, 1.0, 0.0]}}
    lengths = {"chosen": [10, 20, 7], "rejected": [10, 19, 30]}
    loss, _, _ = pairs(case, lengths=lengths)
    assert metric(loss, "accuracy") == pytest.approx(2 / 3)
    assert metric(loss, "accuracy/same_length") == 0.5
    # A tie counts half: ½ + 1 + 0 of three.
    assert metric(loss, "accuracy/longer") == 0.5
    assert metric(loss, "brier") == pytest.approx(
        sum((1 - 1 / (1 + math.exp(-d))) ** 2 for d in (1.0, -1.0, 2.0)) / 3, rel=1e-6
    )
    assert set(loss.metrics) <= set(RM.metrics)


def test_metrics_of_rankings_weigh_every_prompt_the_same():
    loss, _ = rankings([[3.0, 2.0, 1.0], [0.0, 1.0]], [[1, 2, 3], [1, 2]])
    assert metric(loss, "accuracy") == 0.5
    assert metric(loss, "margin") == pytest.approx(((1 + 2 + 1) / 3 - 1) / 2)


def test_the_reward_is_the_only_role():
    batch, models = stand_ins(scores={"chosen": torch.zeros(1), "rejected": torch.zeros(1)})
    RM().loss(batch, models, options())
    assert models.used == {"policy"}


@pytest.mark.parametrize(("name", "value"), [("normalize_samples", 1), ("centering", -0.01), ("margin_scale", -1.0)])
def test_options_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ZooError, match=f"{name} must be at least"):
        options(**{name: value})
    with pytest.raises(ZooError, match="normalize_samples has no effect with normalize=none"):
        options(normalize="none", normalize_samples=9)


PAIRS, RANKINGS = [{"chosen": 1, "rejected": 2}], [{"completions": [1, 2, 3], "ranks": [1, 2, 3]}]
TIED = [*RANKINGS, {**RANKINGS[0], "ranks": [1, 2, 2]}, {**RANKINGS[0], "ranks": [1, 1, 2]}]


@pytest.mark.parametrize(
    ("records", "values", "said"),
    [
        (PAIRS, {"ranking_loss": "best_of_n"}, "--ranking-loss best_of_n changes nothing.*--format ranking"),
        (PAIRS, {"ranking_loss": "plackett_luce"}, "--ranking-loss plackett_luce changes nothing"),
        (RANKINGS, {"ranking_loss": "plackett_luce"}, ""),
        (TIED, {"ranking_loss": "plackett_luce"}, "--ranking-loss plackett_luce learns nothing from 2 of 3 rankings"),
        (TIED, {"ranking_loss": "best_of_n"}, "--ranking-loss best_of_n learns nothing from 1 of 3 rankings"),
        (TIED, {}, ""),
        (RANKINGS, {"margin_scale": 3.0}, "--margin-scale changes nothing"),
        (PAIRS, {"margin_scale": 3.0}, "--margin-scale changes nothing"),
        ([*PAIRS, {**PAIRS[0], "margin": 1.0}], {"margin_scale": 3.0}, ""),
        (PAIRS, {}, ""),
        (RANKINGS, {}, ""),
    ],
)
def test_an_option_that_says_nothing_about_the_data_is_named(records, values, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listed = ListedRecords(records)
        assert RM().prepare(listed, options(**values)) is listed
    assert len(caught) == bool(said)
    assert all(one.filename.endswith("rm.py") for one in caught), "a run makes a line of what a plugin itself warns of"
    assert re.search(said, "".join(str(one.message) for one in caught))


def test_on_two_answers_all_losses_of_rankings_are_one():
    """As the note says: −log σ of the difference."""
    for loss in ("kwise", "best_of_n", "plackett_luce"):
        close(rankings([[0.5, 2.0]], [[2, 1]], ranking_loss=loss)[0].values, [math.log1p(math.exp(-1.5))])
