"""A tie counts half, and what differs by rounding is a tie: in training, evaluations and comparisons alike.

And what all losses over pairs report alike.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from formulas import evaluate, metric, tensor

from zoo.api import wins
from zoo.comparison.measures import _pair_scores
from zoo.contract.registry import load_algorithm
from zoo.evals.pairs import Pair, certainty_bins
from zoo.evals.reward_models import compared
from zoo.values.ties import TIE, won

EQUAL = {side: tensor([-3.0, -7.0]) for side in ("chosen", "rejected")}
NEAR = {"chosen": tensor([-3.0, -7.0]), "rejected": tensor([-3.00001, -6.99999])}
FEEDBACK = {"completion": tensor([-3.0, -7.0]), "mismatched": tensor([-5.0, -5.0])}
MARKS = {"label": torch.tensor([True, False])}


def test_a_margin_is_won_lost_or_tied():
    margins = torch.tensor([2 * TIE, -2 * TIE, 0.0, TIE / 2, -TIE / 2, math.nan, math.inf, -math.inf])
    expected = [1.0, 0.0, 0.5, 0.5, 0.5, math.nan, 1.0, 0.0]
    torch.testing.assert_close(wins(margins), torch.tensor(expected), equal_nan=True)
    assert [won(float(margin)) for margin in margins if not margin.isnan()] == [e for e in expected if e == e]


def test_the_scale_says_what_a_nat_is_worth():
    """A log-ratio of 0.001 is none of rounding, also where β makes a reward of 0.00001 of it."""
    assert wins(torch.tensor([1e-5]), scale=0.01).tolist() == [1.0] and wins(torch.tensor([1e-5])).tolist() == [0.5]


@pytest.mark.parametrize("name", ["dpo", "ipo", "cpo", "simpo", "orpo"])
@pytest.mark.parametrize("policy", [EQUAL, NEAR], ids=["equal", "rounding"])
def test_pairs_that_are_tied_count_half(name, policy):
    algorithm = load_algorithm(name)[1]
    reference = EQUAL if name in ("dpo", "ipo") else None
    loss = evaluate(algorithm(), policy, reference)
    assert metric(loss, "rewards/accuracies") == 0.5
    policy = {"chosen": policy["chosen"] + 0.1, "rejected": policy["rejected"]}
    assert metric(evaluate(algorithm(), policy, reference), "rewards/accuracies") == 1.0


@pytest.mark.parametrize("away", [0.0, 1e-5, -1e-5])
def test_answers_at_the_reference_point_count_half(away):
    """While the policy is the reference the sign of a log-ratio is rounding, and another one in every row layout."""
    policy = {"completion": FEEDBACK["completion"] + away, "mismatched": FEEDBACK["mismatched"]}
    for name in ("kto", "bco"):
        algorithm = load_algorithm(name)[1]
        reference = FEEDBACK if name == "kto" else {"completion": FEEDBACK["completion"]}
        given = policy if name == "kto" else {"completion": policy["completion"]}
        assert metric(evaluate(algorithm(), given, reference, fields=MARKS), "accuracies") == 0.5


def test_an_evaluation_counts_them_alike():
    pairs = [Pair(1.0, 0.0, 3, 3), Pair(0.0, 1.0, 3, 3), Pair(0.5, 0.5, 3, 3), Pair(-0.2, -0.2 + 1e-6, 3, 3)]
    assert [pair.right for pair in pairs] == [1.0, 0.0, 0.5, 0.5]
    assert compared(pairs)["same_length_accuracy"] == 0.5
    assert sum(right for _, right, _ in certainty_bins([pair.margin for pair in pairs])) == 2.0


def test_a_comparison_counts_them_alike():
    """Of the start, which is compared with itself, neither answer of a pair has gained."""
    same = [(SimpleNamespace(sum=-3.0, mean=-1.0), SimpleNamespace(sum=-6.0, mean=-1.0))] * 2
    found = _pair_scores(same, [(-3.0, -6.0)] * 2)
    assert found["plain_accuracy"].value == found["preference_accuracy"].value == 0.5


@pytest.mark.parametrize("name, per", [("dpo", 1), ("ipo", 1), ("cpo", 1), ("simpo", "token"), ("orpo", "token")])
def test_the_log_probabilities_of_a_pair_are_told_summed_or_per_token_as_their_metric_says(name, per):
    lengths = {"chosen": [2, 4], "rejected": [5, 10]}
    loss = evaluate(load_algorithm(name)[1](), EQUAL, EQUAL if name in ("dpo", "ipo") else None, lengths=lengths)
    for side in EQUAL:
        expected = EQUAL[side] / (tensor(lengths[side]) if per == "token" else 1)
        torch.testing.assert_close(loss.metrics[f"logps/{side}"].detach(), expected)
