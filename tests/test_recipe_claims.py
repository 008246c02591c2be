"""Claims of recipes: every rule holds and fails where it should, on numbers worked out by hand."""

import pytest

from zoo.evals import Score
from zoo.recipes import claims
from zoo.recipes.claims import Measured, NoValue, interpolate, judge, quantities, together
from zoo.recipes.form import At, Claim
from zoo.recipes.verdicts import Bounds

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
    ("rule", "values", "bounds", "stated"),
    [
        ({"metric": "a.x", "above": 0.49}, [0.5, 0.6, 0.7], Bounds(0.49), "a.x: above 0.49"),
        ({"metric": "a.x", "below": 0.71}, [0.5, 0.6, 0.7], Bounds(high=0.71), "a.x: below 0.71"),
        ({"metric": "a.x", "between": [0.5, 0.7]}, [0.5, 0.6, 0.7], Bounds(0.5, 0.7), "a.x: between 0.5 and 0.7"),
        ({"metric": "a.x", "baseline": "b.x", "by": 0.1}, [0.10, 0.05, 0.20], Bounds(by=0.1),
         "a.x − b.x: above 0, by 0.1 or more"),
        ({"metric": "b.x", "baseline": "a.x", "by": -0.1}, [-0.10, -0.05, -0.20], Bounds(by=-0.1),
         "b.x − a.x: below 0, by 0.1 or more"),
        ({"metric": "b.x", "baseline": "a.x", "above": -0.25}, [-0.10, -0.05, -0.20], Bounds(-0.25),
         "b.x − a.x: above -0.25"),
        ({"orders": ["b.x", "a.x"]}, [0.10, 0.05, 0.20], Bounds(by=0.0), "b.x < a.x: rises with each step"),
        ({"orders": ["b.x", "a.x"], "by": 0.04}, [0.10, 0.05, 0.20], Bounds(by=0.04),
         "b.x < a.x: rises with each step, by 0.04 or more"),
        ({"metric": "a.x", "paper": 0.65, "within": 0.25, "exact": True}, [0.5, 0.6, 0.7], Bounds(0.4, 0.9),
         "a.x: 0.65 ± 0.25"),
    ],
)  # fmt: skip
def test_what_a_rule_is_about(rule, values, bounds, stated):
    claim = Claim(says="so", where="", **rule)
    (quantity,) = quantities(claim, measured(**A), [0, 1, 2])
    assert list(quantity.values) == pytest.approx(values) and quantity.bounds == bounds
    assert claims.stated(claim) == stated


def test_a_verdict_says_what_decided_it():
    numbers = measured(a={"x": [9.0, 9.1, 9.2]}, b={"x": [1.0, 1.3, 1.0]}, c={"x": [1.0, 2.0, 3.0]})
    assert verdict(numbers, metric="a.x", baseline="b.x", by=1.0) == ("reproduced", "")
    assert verdict(numbers, metric="a.x", below=3.0) == ("contradicted", "8.578 to 9.622")
    assert verdict(numbers, metric="c.x", above=1.0) == (
        "undecided", "-3.223 to 7.223; about 10 seeds would decide it",
    )  # fmt: skip
    assert verdict(numbers, metric="c.x", above=2.0) == (
        "undecided", "-3.223 to 7.223; more seeds would not decide it",
    )  # fmt: skip
    assert verdict(numbers, [0], metric="c.x", above=0.0) == (
        "undecided", "one seed says nothing about the spread over seeds",
    )  # fmt: skip


def test_of_several_steps_the_one_that_decides_is_named():
    numbers = measured(a={"x": [1.0, 1.1, 1.2]}, b={"x": [9.0, 9.1, 9.2]}, c={"x": [1.0, 1.3, 1.0]})
    found = judge(Claim(says="so", where="", orders=["a.x", "b.x", "c.x"]), numbers, [0, 1, 2])
    assert found["verdict"] == "contradicted" and found["why"].startswith("c.x − b.x: -9.")
    assert [each["name"] for each in found["quantities"]] == ["b.x − a.x", "c.x − b.x"]
    assert found["values"] == pytest.approx([-8.0, -7.8, -8.2])


def test_equal_numbers_are_in_no_order():
    numbers = measured(a={"x": [1.0, 1.0]}, b={"x": [1.0, 1.0]}, c={"x": [2.0, 2.0]})
    assert verdict(numbers, [0, 1], orders=["a.x", "b.x", "c.x"])[0] != "reproduced"


# -- cases -------------------------------------------------------------------------------------------------------


def scored(cases, about="the same"):
    return Score("x", sum(cases) / len(cases), len(cases), 0.0, 1.0, cases=[float(case) for case in cases], about=about)


def with_scores(scores):
    values = {
        seed: {stage: {"x": of_it["x"].value} for stage, of_it in stages.items()} for seed, stages in scores.items()
    }
    return Measured(values, lambda name: [name], scores)


def test_cases_that_all_seeds_share_count_once():
    """Three seeds on the same 100 cases: their spread is nothing, that over cases is √(0.25/99) = 0.0503."""
    scores = {seed: {"a": {"x": scored([1, 0] * 50)}} for seed in (0, 1, 2)}
    (quantity,) = quantities(Claim(says="so", where="", metric="a.x", above=0.4), with_scores(scores), [0, 1, 2])
    assert quantity.sd == 0 and quantity.case_error == pytest.approx(0.05, rel=0.02)
    assert verdict(with_scores(scores), metric="a.x", above=0.4)[0] == "undecided"
    assert verdict(with_scores(scores), metric="a.x", above=0.3)[0] == "reproduced"


def test_cases_are_compared_one_by_one():
    """b is right where a is, and in ten cases more: a rise of 0.1 with an error of √(0.09/99) = 0.0302."""
    scores = {
        seed: {"a": {"x": scored([1] * 50 + [0] * 50)}, "b": {"x": scored([1] * 60 + [0] * 40)}} for seed in (0, 1, 2)
    }
    claim = Claim(says="so", where="", metric="b.x", baseline="a.x", by=0.05)
    (quantity,) = quantities(claim, with_scores(scores), [0, 1, 2])
    assert quantity.case_error == pytest.approx(0.0302, rel=0.15)


def test_cases_that_differ_between_seeds_are_in_the_spread_already():
    scores = {seed: {"a": {"x": scored([1, 0] * 50, about=str(seed))}} for seed in (0, 1, 2)}
    (quantity,) = quantities(Claim(says="so", where="", metric="a.x", above=0.4), with_scores(scores), [0, 1, 2])
    assert quantity.case_error == 0


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
    assert found["metric"] == "tuned(*).gold at kl = 2"


def test_a_baseline_that_is_no_sweep_is_taken_as_it_is():
    found = judge(
        Claim(
            says="so", where="", metric="tuned(*).gold", baseline="flat.gold", by=5,
            at=At(metric="tuned(*).kl", value=2.0),
        ),
        measured(**SWEPT), [0, 1],
    )  # fmt: skip
    assert found["values"] == [5.0, 5.0]


def test_what_a_sweep_did_not_reach_is_not_tested():
    rule = {"metric": "tuned(*).gold", "above": 0.0, "at": At(metric="tuned(*).kl", value=4.0)}
    assert verdict(measured(**SWEPT), [0], **rule)[0] == "undecided"
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
    claim = Claim(says="so", where="", metric="tuned(*).gold", above=9.0)
    assert [(q.name, q.values) for q in quantities(claim, numbers, [0, 1])] == [
        ("tuned(beta=1).gold", [10.0, 40.0]), ("tuned(beta=2).gold", [30.0, 20.0]),
        ("tuned(beta=3).gold", [20.0, 50.0]),
    ]  # fmt: skip
    claim = Claim(says="so", where="", metric="tuned(*).gold", baseline="flat.gold", by=1)
    assert [q.values for q in quantities(claim, numbers, [0, 1])] == [[-5.0, -5.0], [15.0, -25.0], [5.0, 5.0]]
    assert verdict(numbers, [0, 1], metric="tuned(*).gold", baseline="flat.gold", by=1)[0] == "contradicted"


def test_a_sweep_within_an_order_stands_for_its_stages():
    claim = Claim(says="so", where="", orders=["tuned(*).kl"])
    assert [q.values for q in quantities(claim, measured(**SWEPT), [0, 1])] == [[2.0, -2.0], [2.0, 1.0]]


# -- what is missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_number_that_is_missing_is_never_taken_for_a_zero(missing):
    numbers = measured(a={"x": [0.5, missing]})
    assert verdict(numbers, [0, 1], metric="a.x", below=1.0) == ("not tested here", "a.x has no value in seed 1")


def test_a_claim_that_needs_people_is_never_judged():
    assert verdict(measured(**A), untested="needs human raters") == ("not tested here", "needs human raters")


# -- together ------------------------------------------------------------------------------------------------------


def test_the_verdict_of_a_recipe_is_a_count():
    held, failed, open_ = ({"verdict": name, "seeds": [0]} for name in ("reproduced", "contradicted", "undecided"))
    unread, foreign = {"verdict": "not tested here", "seeds": [0]}, {"verdict": "not tested here", "seeds": []}
    assert together([held, held, foreign]) == "2 of 2 reproduced"
    assert together([held, failed, open_, open_]) == "1 of 4 reproduced, 1 contradicted, 2 undecided"
    assert together([held, unread]) == "1 of 2 reproduced, 1 not tested here"
    assert together([foreign]) == "not tested here"
