"""The formulas of evaluations, against numbers from other libraries and from counting every case."""

import math

import pytest

from zoo.evals import ratio_score
from zoo.evals.estimators import best_of, divergence_of_best, majority, pass_at, spearman
from zoo.evals.leaderboard import spearman_interval
from zoo.evals.length_control import length_controlled
from zoo.evals.reliability import (
    Choice,
    brier,
    calibration_error,
    error_by_chance,
    error_interval,
    fitted_temperature,
    log_loss,
    reliability,
)
from zoo.evals.variety import adjusted_distinct, distinct, self_bleu


@pytest.mark.parametrize(("n", "right", "k", "share"), [(8, 3, 2, 9 / 14), (10, 1, 5, 0.5), (6, 4, 3, 1.0)])
def test_one_of_k_is_right_as_often_as_in_all_ways_to_draw_them(n, right, k, share):
    """Counted over all C(n, k) draws; of 8 with 3 right 18 of 28 pairs have one."""
    assert pass_at(n, right, k) == pytest.approx(share)


@pytest.mark.parametrize(
    ("votes", "right", "share"),
    [
        ([1, 2, 2, None], [1, 0, 0, 1], 0.0),
        ([1, 1, 2, 3], [1, 1, 0, 0], 1.0),
        ([1, 2, 1, 2], [1, 0, 1, 0], 0.5),
        ([None, None], [1, 1], 0.0),
    ],
)
def test_the_majority_speaks_for_all_and_a_tie_counts_half(votes, right, share):
    assert majority(votes, right) == share


def test_the_best_of_n_has_the_mean_over_all_ways_to_draw_n():
    """All subsets of five answers, two of which share a proxy: itertools.combinations, ties averaged."""
    proxy, gold = [0.1, 0.9, 0.4, 0.4, 0.7], [5, 1, 2, 8, 3]
    assert [best_of(proxy, gold, n) for n in range(1, 6)] == pytest.approx([3.8, 2.8, 2.0, 1.4, 1.0])


def test_the_best_of_many_does_not_lose_its_digits():
    size = 20_000
    values = [i / size for i in range(size)]
    # The expected maximum of n of the numbers 1 … N is n (N + 1) / (n + 1).
    assert best_of(values, values, 2048) == pytest.approx((2048 * (size + 1) / 2049 - 1) / size, rel=1e-9)


def test_the_divergence_of_the_best_is_that_of_gao():
    assert [divergence_of_best(n) for n in (1, 4, 64)] == pytest.approx([0.0, 0.636294, 3.174508], abs=1e-6)


def test_rank_correlation_is_that_of_scipy():
    assert spearman([1, 2, 2, 4, 5, 0], [3, 1, 4, 4, 9, 2]) == pytest.approx(0.7205882352941176)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    # tanh(0.65198 ∓ 1.96 √(1.06/219)), by hand.
    assert spearman_interval(0.573, 222) == pytest.approx((0.4744, 0.6575), abs=2e-4)


def test_a_ratio_has_the_interval_of_its_residuals():
    """Worked in numpy: 41 / 22, and t with 3 degrees of freedom."""
    score = ratio_score("x", [10.0, 3.0, 8.0, 20.0], [5, 1, 4, 12])
    assert score.value == pytest.approx(1.8636364)
    assert score.high - score.value == pytest.approx(0.4617, rel=1e-2)


# -- calibration ---------------------------------------------------------------------------------------------------

CERTAIN = list(
    zip(
        [0.55, 0.62, 0.71, 0.78, 0.83, 0.9, 0.95, 0.99, 0.35, 0.48],
        map(bool, [1, 0, 1, 1, 0, 1, 1, 1, 0, 1]),
        strict=True,
    )
)
LOGITS = [(3, 0, -1), (2, 1.5, 0), (0, 4, 1), (1, 0, 3), (5, 0, 0), (0.5, 0, 0.2)]
CHOICES = [Choice(tuple(map(float, one)), right) for one, right in zip(LOGITS, [0, 1, 1, 0, 0, 2], strict=True)]


def test_the_diagram_is_that_of_scikit_learn():
    """sklearn.calibration.calibration_curve(n_bins=5)."""
    expected = [(0.35, 0.0, 1), (0.515, 1.0, 2), (0.703333, 2 / 3, 3), (0.9175, 0.75, 4)]
    for found, wanted in zip(reliability(CERTAIN, 5), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
    # (0.35 + 2 · 0.485 + 3 · 0.036667 + 4 · 0.1675) / 10
    assert calibration_error(CERTAIN, 5) == pytest.approx(0.21)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    assert reliability([(0.2, True), (0.4, True), (1.0, True)], 5) == [(0.2, 1.0, 1), (0.4, 1.0, 1), (1.0, 1.0, 1)]
    assert calibration_error([(0.0, False)], 5) == 0.0


def test_losses_of_choices_are_those_of_scikit_learn():
    assert log_loss(CHOICES) == pytest.approx(0.7538738672939722)
    assert brier(CHOICES) == pytest.approx(0.4981416374658874)


def test_the_temperature_is_the_one_that_scipy_finds():
    found = fitted_temperature(CHOICES)
    assert found == pytest.approx(1.4927288, rel=1e-5)
    assert log_loss(CHOICES, found) == pytest.approx(0.709562835944232)


def test_a_temperature_brings_sharpened_answers_back():
    """Answers of known chances, made three times as sharp as they are."""
    import random

    draw = random.Random(0)
    choices = []
    for _ in range(2000):
        logits = [draw.gauss(0, 1) for _ in range(4)]
        right = draw.choices(range(4), [math.exp(one) for one in logits])[0]
        choices.append(Choice(tuple(3 * one for one in logits), right))
    assert fitted_temperature(choices[:1000]) == pytest.approx(3.0, rel=0.15)
    before, after = (
        calibration_error([one.certainty(temperature) for one in choices[1000:]], 10) for temperature in (1.0, 3.0)
    )
    assert before > 0.2 and after < 0.05


def test_few_questions_have_an_error_by_chance_and_an_interval():
    few, many = ([(0.8, i % 5 != 0) for i in range(count)] for count in (10, 1000))
    assert calibration_error(few, 10) == pytest.approx(0.0, abs=1e-9)
    # The mean of |share − 0.8| over draws of 10: 0.1007 by the binomial distribution.
    assert error_by_chance(few, 10) == pytest.approx(0.1007, abs=0.01)
    assert error_by_chance(many, 10) < 0.02
    low, high = error_interval(CERTAIN, 5)
    assert 0 <= low < 0.21 < high <= 1


# -- variety -------------------------------------------------------------------------------------------------------


def test_distinct_counts_different_ngrams_and_none_goes_over_an_end():
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == pytest.approx(2 / 4)
    assert distinct([[1], [2]], 2) is None
    assert distinct([[1, 1, 1]], 1) == pytest.approx(1 / 3)


def test_adjusted_distinct_is_one_for_tokens_drawn_at_random_whatever_their_number():
    import random

    draw = random.Random(0)
    for count in (50, 500, 5000):
        tokens = [draw.randrange(100) for _ in range(count)]
        assert adjusted_distinct([tokens], 1, 100) == pytest.approx(1.0, abs=0.1)
    # 2 / (3 (1 − (2/3)^3)) = 54/57 for tokens 0, 0, 1 of three.
    assert adjusted_distinct([[0, 0, 1]], 1, 3) == pytest.approx(54 / 57)


def test_self_bleu_is_that_of_nltk():
    """sentence_bleu with SmoothingFunction().method1, each text against the three others, averaged."""
    texts = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 6, 7], [8, 2, 3, 4, 5], [1, 1, 2]]
    assert self_bleu(texts) == pytest.approx(0.3958890736315305)
    assert self_bleu([[1, 2, 3, 4]] * 3) == pytest.approx(1.0)
    assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]) == 0.0
    assert self_bleu([[1, 2]]) is None


# -- length control ------------------------------------------------------------------------------------------------

WINS = [1, 1, 1, 0, 1, 0, 0.5, 1, 0.8, 0, 1, 0.3]
DIFFERENCES = [120, 300, 40, -80, 500, -20, 10, 220, 60, -150, 90, -5]


def test_the_length_controlled_rate_maximises_its_penalised_likelihood():
    """scipy.optimize.minimize (BFGS) on the same likelihood: θ 0.23288, φ 1.38890."""
    found = length_controlled(WINS, DIFFERENCES)
    assert (found.rate, found.length_effect) == pytest.approx((0.5579580, 1.3888992), abs=1e-6)
    assert found.low < found.rate < found.high
    assert found.rate < sum(WINS) / len(WINS), "it won by writing more"


def test_without_differences_of_length_it_is_the_plain_rate():
    found = length_controlled([1.0] * 60 + [0.0] * 40, [7] * 100)
    # The prior pulls a little towards a half.
    assert (found.rate, found.length_effect) == pytest.approx((0.6, 0.0), abs=1e-3)
    # Half the width that the binomial distribution gives.
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 100), rel=0.05)


def test_a_model_that_always_wins_has_a_rate_below_one_and_a_wide_interval():
    found = length_controlled([1.0] * 50, list(range(50)))
    assert 0.9 < found.rate < 1 and found.low < found.rate
