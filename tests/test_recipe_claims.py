"""Claims of recipes: every rule holds and fails where it should, on numbers worked out by hand."""

import pytest

from zoo.recipes.claims import Measured, NoValue, interpolate, judge, spread, together
from zoo.recipes.form import At, Claim

SWEEP = ["tuned(beta=1)", "tuned(beta=2)", "tuned(beta=3)"]


def measured(**stages):
    """`stage={"metric": [value in seed 0, in seed 1, …]}`; a stage called `tuned_1` is `tuned(beta=1)`."""
    named = {(f"tuned(beta={name[-1]})" if name.startswith("tuned_") else name): v for name, v in stages.items()}
    seeds = range(max(len(column) for metrics in named.values() for column in metrics.values()))
    values = {
        seed: {stage: {metric: column[seed] for metric, column in metrics.items()} for stage, metrics in named.items()}
        for seed in seeds
    }
    return Measured(values, lambda name: SWEEP if name == "tuned(*)" else [name] if name in named else [])


def verdict(numbers, seeds=(0, 1, 2), **rule):
    found = judge(Claim(says="so", where="", **rule), numbers, list(seeds))
    return found["verdict"], found["why"]


A = {"a": {"x": [0.50, 0.60, 0.70]}, "b": {"x": [0.40, 0.55, 0.50]}}


# -- every rule, both ways ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"metric": "a.x", "above": 0.49}, ""),
        ({"metric": "a.x", "above": 0.5}, "0.5 in seed 0"),
        ({"metric": "a.x", "above": 0.65}, "0.5 in seed 0; 0.6 in seed 1"),
        ({"metric": "a.x", "below": 0.71}, ""),
        ({"metric": "a.x", "below": 0.7}, "0.7 in seed 2"),
        ({"metric": "a.x", "between": [0.5, 0.7]}, ""),
        ({"metric": "a.x", "between": [0.55, 0.65]}, "0.5 in seed 0; 0.7 in seed 2"),
        # The rises are 0.10, 0.05 and 0.20, on average 0.11667.
        ({"metric": "a.x", "baseline": "b.x", "rises_by": 0.116}, ""),
        ({"metric": "a.x", "baseline": "b.x", "rises_by": 0.117}, "0.1167 on average"),
        ({"metric": "b.x", "baseline": "a.x", "rises_by": 0.0}, "-0.1 in seed 0; -0.05 in seed 1; -0.2 in seed 2"),
        # A fall: below 0 in every seed and −0.11667 on average.
        ({"metric": "b.x", "baseline": "a.x", "rises_by": -0.116}, ""),
        ({"metric": "b.x", "baseline": "a.x", "rises_by": -0.12}, "-0.1167 on average"),
        ({"metric": "a.x", "baseline": "b.x", "rises_by": -0.01}, "0.1 in seed 0; 0.05 in seed 1; 0.2 in seed 2"),
        ({"metric": "b.x", "baseline": "a.x", "above": -0.25}, ""),
        ({"metric": "b.x", "baseline": "a.x", "above": -0.15}, "-0.2 in seed 2"),
        ({"metric": "a.x", "baseline": "b.x", "between": [0.0, 0.25]}, ""),
        ({"metric": "a.x", "baseline": "b.x", "below": 0.15}, "0.2 in seed 2"),
        ({"orders": ["b.x", "a.x"]}, ""),
        ({"orders": ["a.x", "b.x"]}, "-0.1 in seed 0; -0.05 in seed 1; -0.2 in seed 2"),
        # The mean is 0.6.
        ({"metric": "a.x", "paper": 0.65, "within": 0.0501, "exact": True}, ""),
        ({"metric": "a.x", "paper": 0.65, "within": 0.04, "exact": True}, "0.6 on average"),
    ],
)
def test_a_rule_holds_or_fails_on_hand_worked_numbers(rule, why):
    assert verdict(measured(**A), **rule) == ("not reproduced" if why else "reproduced", why)


def test_a_rise_must_be_there_in_every_seed_however_large_it_is_on_average():
    numbers = measured(a={"x": [9.0, 9.0, 1.0]}, b={"x": [1.0, 1.0, 1.0]})
    assert verdict(numbers, metric="a.x", baseline="b.x", rises_by=1.0) == ("not reproduced", "0 in seed 2")


def test_equal_numbers_are_in_no_order():
    numbers = measured(a={"x": [1.0]}, b={"x": [1.0]}, c={"x": [2.0]})
    assert verdict(numbers, [0], orders=["a.x", "b.x", "c.x"]) == ("not reproduced", "0 in seed 0")


# -- sweeps ------------------------------------------------------------------------------------------------------

SWEPT = {
    "tuned_1": {"kl": [1.0, 3.0], "gold": [10.0, 40.0]},
    "tuned_2": {"kl": [3.0, 1.0], "gold": [30.0, 20.0]},
    "tuned_3": {"kl": [5.0, 2.0], "gold": [20.0, 50.0]},
    "flat": {"kl": [2.0, 2.0], "gold": [15.0, 45.0]},
}


def test_a_sweep_is_read_between_its_points_at_the_value_of_another_metric():
    # Seed 0: 2 lies halfway between kl 1 and 3, gold 10 and 30: 20. Seed 1: at the point.
    found = judge(
        Claim(says="so", where="", metric="tuned(*).gold", above=19.9, at=At(metric="tuned(*).kl", value=2.0)),
        measured(**SWEPT), [0, 1],
    )  # fmt: skip
    assert found["values"] == [20.0, 50.0]
    assert found["verdict"] == "reproduced"
    assert found["metric"] == "tuned(*).gold at kl = 2"


def test_a_baseline_that_is_no_sweep_is_taken_as_it_is():
    found = judge(
        Claim(
            says="so", where="", metric="tuned(*).gold", baseline="flat.gold", rises_by=5,
            at=At(metric="tuned(*).kl", value=2.0),
        ),
        measured(**SWEPT), [0, 1],
    )  # fmt: skip
    assert found["values"] == [5.0, 5.0]


def test_what_a_sweep_did_not_reach_is_not_tested():
    rule = {"metric": "tuned(*).gold", "above": 0.0, "at": At(metric="tuned(*).kl", value=4.0)}
    assert verdict(measured(**SWEPT), [0], **rule) == ("reproduced", "")
    result, why = verdict(measured(**SWEPT), [0, 1], **rule)
    assert result == "not tested here"
    assert why == "the sweep has tuned(*).kl from 1 to 3 in seed 1, not 4"


def test_points_that_share_a_place_count_as_their_mean():
    assert interpolate([(1.0, 0.0), (1.0, 4.0), (2.0, 6.0)], 1.5) == pytest.approx(4.0)
    assert interpolate([(1.0, 3.0)], 1.0) == 3.0
    with pytest.raises(NoValue):
        interpolate([(1.0, 3.0)], 1.1)


def test_all_stages_of_a_sweep_have_to_hold():
    numbers = measured(**SWEPT)
    assert verdict(numbers, [0], metric="tuned(*).gold", above=9.0) == ("reproduced", "")
    assert verdict(numbers, [0], metric="tuned(*).gold", above=15.0) == ("not reproduced", "10 in seed 0")
    assert verdict(numbers, [0], metric="tuned(*).gold", below=25.0) == ("not reproduced", "30 in seed 0")
    assert verdict(numbers, [0], metric="tuned(*).gold", between=[15.0, 35.0]) == ("not reproduced", "10 in seed 0")
    assert verdict(numbers, [0], metric="tuned(*).gold", baseline="flat.gold", rises_by=1) == (
        "not reproduced", "-5 in seed 0",
    )  # fmt: skip


def test_a_sweep_within_an_order_stands_for_its_stages():
    numbers = measured(**SWEPT)
    assert verdict(numbers, [0], orders=["tuned(*).kl"]) == ("reproduced", "")
    assert verdict(numbers, [0], orders=["tuned(*).gold"]) == ("not reproduced", "-10 in seed 0")


# -- what is missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_number_that_is_missing_is_never_taken_for_a_zero(missing):
    numbers = measured(a={"x": [0.5, missing]})
    assert verdict(numbers, [0, 1], metric="a.x", below=1.0) == ("not tested here", "a.x has no value in seed 1")


def test_a_claim_that_needs_people_is_never_judged():
    assert verdict(measured(**A), untested="needs human raters") == ("not tested here", "needs human raters")


# -- over seeds, and together ------------------------------------------------------------------------------------


def test_the_interval_over_seeds_is_students():
    # Mean 4, deviation 2; t = 4.303 for two degrees of freedom: 4 ± 4.303 · 2 / √3 = 4 ± 4.9687.
    mean, sd, low, high = spread([2.0, 4.0, 6.0])
    assert (mean, sd) == (4.0, 2.0)
    assert (low, high) == (pytest.approx(-0.9687, abs=1e-4), pytest.approx(8.9687, abs=1e-4))
    assert spread([5.0]) == (5.0, None, None, None)


def test_a_recipe_is_reproduced_when_all_that_its_stages_test_is():
    held, failed = {"verdict": "reproduced", "seeds": [0]}, {"verdict": "not reproduced", "seeds": [0]}
    unread, foreign = {"verdict": "not tested here", "seeds": [0]}, {"verdict": "not tested here", "seeds": []}
    assert together([held, held, foreign]) == "reproduced"
    assert together([held, failed, unread]) == "not reproduced"
    assert together([held, unread]) == "not tested here"
    assert together([foreign]) == "not tested here"
