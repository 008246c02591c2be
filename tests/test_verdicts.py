"""Verdicts by intervals: each rule on numbers worked out elsewhere, and how often a verdict is wrong."""

import math

import numpy as np
import pytest

from zoo.recipes.verdicts import (
    CONTRADICTED,
    LEVEL,
    LOOKS,
    NORMAL,
    REPRODUCED,
    UNDECIDED,
    Bounds,
    Quantity,
    deciding,
    next_look,
    verdict,
)
from zoo.statistics import holm, student, student_tail

T2 = (2 * 0.994 - 1) / math.sqrt(2 * 0.994 * 0.006)
"""Student's t with two degrees of freedom has a closed form; this is its 99.4 % point, 9.0 deviations."""


def quantity(*values, case_error=0.0, **bounds):
    return Quantity("x", values, Bounds(**bounds), case_error)


# -- Student's t and Holm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9, 0.95, 0.988, 0.999])
def test_students_points_are_those_of_its_closed_forms(level):
    p = (1 + level) / 2
    assert student(1, level) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
    assert student(2, level) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)
    a = 4 * p * (1 - p)
    assert student(4, level) == pytest.approx(
        2 * math.sqrt(math.cos(math.acos(math.sqrt(a)) / 3) / math.sqrt(a) - 1), rel=1e-9
    )


@pytest.mark.parametrize(
    # Tables of Student's t: the point that is exceeded with this probability.
    ("freedom", "tail", "point"),
    [(3, 0.01, 4.541), (5, 0.005, 4.032), (8, 0.001, 4.501), (19, 0.01, 2.539), (60, 0.005, 2.660),
     (120, 0.0005, 3.373)],
)  # fmt: skip
def test_students_tails_are_those_of_the_tables(freedom, tail, point):
    assert student_tail(point, freedom) == pytest.approx(tail, rel=2e-3)
    assert student_tail(-point, freedom) == pytest.approx(1 - tail, rel=1e-4)


def test_many_degrees_of_freedom_join_the_others():
    assert student(299, 0.988) == pytest.approx(student(300, 0.988), abs=1e-4)
    assert student_tail(2.5, 299) == pytest.approx(student_tail(2.5, 300), abs=1e-4)


def test_holm_steps_down():
    # An example of many textbooks: 0.005 times 4, 0.01 times 3, 0.03 times 2, and 0.04, which may not be below it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.4]) == [0.8, 0.8] and holm([0.9, 0.9]) == [1.0, 1.0] and holm([]) == []


# -- verdicts ----------------------------------------------------------------------------------------------------


def test_the_interval_is_students():
    low, high = quantity(1.0, 2.0, 3.0, by=0.5).interval()
    half = T2 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert LEVEL == 0.988 and quantity(1.0, by=0.5).interval() is None


# The half of the interval of 10, 11, 12 is T2/√3 = 5.2.
NEAR = (10.0, 11.0, 12.0)


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ({"low": 5.7}, REPRODUCED), ({"low": 5.9}, UNDECIDED), ({"low": 16.1}, UNDECIDED),
        ({"low": 16.3}, CONTRADICTED),
        ({"high": 16.3}, REPRODUCED), ({"high": 16.1}, UNDECIDED), ({"high": 5.7}, CONTRADICTED),
        ({"low": 5.7, "high": 16.3}, REPRODUCED), ({"low": 5.9, "high": 16.3}, UNDECIDED),
        ({"low": 0.0, "high": 5.7}, CONTRADICTED), ({"low": 16.3, "high": 99.0}, CONTRADICTED),
        # An effect: surely above 0, and at least this on average.
        ({"by": 10.9}, REPRODUCED), ({"by": 11.1}, UNDECIDED), ({"by": 16.3}, CONTRADICTED), ({"by": 0.0}, REPRODUCED),
        ({"by": -0.1}, CONTRADICTED),
    ],
)  # fmt: skip
def test_a_verdict_is_where_the_interval_lies(bounds, found):
    assert verdict([quantity(*NEAR, **bounds)]) == found
    turned = {"low": -bounds["high"] if "high" in bounds else None, "high": -bounds["low"] if "low" in bounds else None}
    if "by" not in bounds:
        assert verdict([quantity(*(-value for value in NEAR), **turned)]) == found
    elif bounds["by"]:
        assert verdict([quantity(*(-value for value in NEAR), by=-bounds["by"])]) == found


def test_an_effect_that_may_be_nothing_is_undecided_however_large_its_mean():
    assert verdict([quantity(0.0, 10.0, 20.0, by=1.0)]) == UNDECIDED


def test_one_seed_decides_nothing_and_equal_values_do():
    assert verdict([quantity(100.0, low=0.0)]) == UNDECIDED
    assert verdict([quantity(1.0, 1.0, low=0.0)]) == REPRODUCED
    assert verdict([quantity(1.0, 1.0, low=2.0)]) == CONTRADICTED
    assert verdict([quantity(1.0, 1.0, low=1.0)]) == UNDECIDED


def test_cases_that_all_seeds_share_widen_the_interval():
    values = (0.50, 0.51, 0.52)
    assert verdict([quantity(*values, low=0.4)]) == REPRODUCED
    assert verdict([quantity(*values, low=0.4, case_error=0.05)]) == UNDECIDED
    low, high = quantity(*values, low=0.4, case_error=0.05).interval()
    assert (low, high) == pytest.approx((0.51 - NORMAL * 0.05, 0.51 + NORMAL * 0.05))
    # 99.4 % point of the normal distribution, from a table.
    assert pytest.approx(2.5121, abs=1e-4) == NORMAL


def test_all_steps_have_to_hold_and_one_can_contradict():
    clear, weak, wrong = (quantity(*values, by=0.0) for values in ((9.9, 10, 10.1), (-1, 1, 3), (-9.9, -10, -10.1)))
    assert verdict([clear, clear, clear]) == REPRODUCED
    assert verdict([clear, weak]) == UNDECIDED and deciding([clear, weak], UNDECIDED) is weak
    assert verdict([clear, weak, wrong]) == CONTRADICTED and deciding([clear, weak, wrong], CONTRADICTED) is wrong


def test_several_steps_are_corrected():
    # 11/(1/√3) = 19.05 is exceeded with a chance of 0.00137 on one side: enough for four of such steps, not for five.
    step = quantity(*NEAR, by=0.0)
    assert step.held() == pytest.approx(0.001372, rel=1e-3)
    assert verdict([step] * 4) == REPRODUCED and verdict([step] * 5) == UNDECIDED


def test_how_many_seeds_would_decide():
    # With n seeds the half of the interval has to fall below 1: t(n − 1)·1/√n is 1.008 for 10, 0.941 for 11 seeds.
    values = (0.0, 1.0, 2.0)
    needed = quantity(*values, low=0.0).seeds_to_decide()
    assert student(needed - 1, LEVEL) / math.sqrt(needed) < 1 <= student(needed - 2, LEVEL) / math.sqrt(needed - 1)
    assert quantity(*values, by=1.5).seeds_to_decide() > needed
    assert quantity(*values, low=1.0).seeds_to_decide() is None
    assert quantity(*values, low=0.0, case_error=0.5).seeds_to_decide() is None


def test_looks():
    assert [next_look(n, 20) for n in (2, 3, 5, 6, 8, 12, 20)] == [3, 5, 8, 8, 12, 20, None]
    assert next_look(8, 10) is None


@pytest.mark.parametrize("deviation", [1, 2, 4])
def test_after_all_looks_a_verdict_is_seldom_wrong(deviation):
    """At most 2.5 % of claims without an effect are reproduced, and 1 % of those with twice the effect contradicted."""
    random = np.random.default_rng(1)

    def share(truth, wanted, claims=1500):
        count = 0
        for values in random.normal(truth, deviation, (claims, LOOKS[-1])).tolist():
            found = (verdict([Quantity("", values[:seeds], Bounds(by=1.0))]) for seeds in LOOKS)
            count += next((one for one in found if one != UNDECIDED), UNDECIDED) == wanted
        return count / claims

    # Three standard errors of a share from 1,500 claims are 1.2 % and 0.8 %.
    assert share(0, REPRODUCED) <= 0.025 + 0.012
    assert share(2, CONTRADICTED) <= 0.01 + 0.008
    assert share(3, REPRODUCED) > {1: 0.99, 2: 0.98, 4: 0.65}[deviation]
