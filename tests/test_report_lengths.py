"""What a report tells of the parts of a reward, and of how long answers are and how they end."""

import csv

import pytest
from made_runs import made, online_rows
from test_report import check

from zoo.report.plots import lines as plots
from zoo.report.plots.series import Series
from zoo.report.run_page import content, write_run_page
from zoo.report.sections.answer_lengths import ending_table, length_plots
from zoo.report.sections.reward_parts import reward_parts, weights_of


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def held_out(**columns):
    return {"step": 9, "values": columns}


# -- parts of a reward ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("0.8*instructions + 0.2*length(target=60)", {"instructions": 0.8, "length(target=60)": 0.2}),
        ("runs/a - (runs/b + 3*runs/c) / 2", {"runs/a": 1.0, "runs/b": -0.5, "runs/c": -1.5}),
        ("mean(a, b)", {"a": 0.5, "b": 0.5}),
        ("exact", {"exact": 1.0}),
        ("min(a, b)", {}), ("a * b", {}), ("a / b", {}), ("a + 1", {}), ("max(a, 0.5) + b", {}), ("var(a, b) + a", {}),
        ("", {}), ("a +", {}),
    ],
)  # fmt: skip
def test_weights_are_those_of_a_weighted_sum_and_of_nothing_else(text, weights):
    assert weights_of(text) == pytest.approx(weights)


def test_each_part_is_drawn_with_what_it_adds_to_the_reward(tmp_path):
    rows = [
        {"step": k, "rollout/reward": 0.5 * k - 1.0, "rollout/reward/good": float(k), "rollout/reward/bad": 0.5}
        for k in range(1, 4)
    ]
    run = made(tmp_path, metrics=rows)
    with (run.path / "run.yaml").open("a") as file:
        file.write("reward: 0.5*good - 2*bad\n")
    write_run_page(run)
    found = table(run.path / "report-data" / "reward-parts.csv")
    by_name = {name: [float(row["value"]) for row in found if row["series"] == name] for name in
               ("0.5 × good", "-2 × bad", "total")}  # fmt: skip
    assert by_name == {"0.5 × good": [0.5, 1.0, 1.5], "-2 × bad": [-1.0] * 3, "total": [-0.5, 0.0, 0.5]}


def test_parts_stand_on_top_of_each_other_and_what_is_negative_below_zero():
    svg = plots.stacked("parts", {"a": [(0, 1.0), (1, 1.0)], "b": [(0, 2.0), (1, -1.0)]}, []).svg
    places = [[tuple(map(float, place.split(","))) for place in part.split('"')[0].split()]
              for part in svg.split('<polygon points="')[1:]]  # fmt: skip
    (a, b), height = places, {}
    height[0], height[1] = a[3][1], a[0][1]
    unit = height[0] - height[1]
    assert b[0][1] == pytest.approx(height[1] - 2 * unit, abs=0.3), "b begins on top of a"
    assert (b[1][1], b[2][1]) == pytest.approx((height[0], height[0] + unit), abs=0.3), "and ends below zero"


def test_parts_that_are_no_sum_stand_beside_each_other_and_one_alone_is_not_drawn():
    rows = [row for row in online_rows() if "loss" in row]
    plot = reward_parts(Series(rows), "min(exact, length)")
    assert list(plot.names) == ["exact", "length"] and list(plot.svgs) == ["step", "tokens", "kl"]
    assert reward_parts(Series([{"step": 1, "rollout/reward/only": 1.0}]), "only") is None


# -- lengths -------------------------------------------------------------------------------------------------------


def test_score_stands_against_length_at_the_start_and_at_the_end(tmp_path):
    lengths = [float(10 + i) for i in range(10)]
    first = held_out(length=lengths, reward=[0.5, 0.4] * 5)
    last = held_out(length=lengths, reward=[0.1 * i for i in range(9)] + [None])
    run = made(tmp_path, heldout={"first": first, "last": last})
    check(write_run_page(run).read_text(encoding="utf-8"))
    rows = table(run.path / "report-data" / "held-out-reward-score-against-length.csv")
    assert [row["series"] for row in rows] == ["start"] * 10 + ["end"] * 9, "a missing score is left out"
    (plot,) = length_plots({"first": first, "last": last}, [])
    assert "end +1.00 (n 9)" in plot.note


def test_of_scores_0_and_1_the_lengths_of_either_are_counted():
    samples = [
        {"eval": "exact", "when": when, "prompt": f"p{i}", "answer": "word " * (2 if i % 2 else 5), "score": i % 2}
        for when in ("before", "after") for i in range(8)
    ]  # fmt: skip
    (plot,) = length_plots({}, samples)
    assert plot.title == "exact: length by score" and list(plot.names) == ["score 1", "score 0"]
    assert "score 1 2 (n 4), score 0 5 (n 4)" in plot.note
    assert sum(row[3] for row in plot.rows) == 8, "those after training"


def test_rollouts_are_compared_in_two_halves_and_pairs_and_few_answers_are_left_out():
    samples = [
        {"eval": "rollout", "when": f"step {i}", "prompt": "p", "answer": "a", "score": 0.1 * i, "length": 20 - i}
        for i in range(16)
    ]
    (plot,) = length_plots({}, samples)
    assert list(plot.names) == ["first half", "second half"]
    assert plot.rows[0] == ("first half", 20.0, 0.0) and plot.rows[-1] == ("second half", 5.0, 1.5)
    assert length_plots({}, samples[:7]) == []


def test_answers_that_ended_by_themselves_are_measured_alone(tmp_path):
    cases = {"first": held_out(length=[8.0, 8.0, 2.0, 4.0], cut=[1.0, 1.0, 0.0, 0.0]),
             "last": held_out(length=[8.0, 8.0], cut=[1.0, 1.0])}  # fmt: skip
    first, last = ending_table(cases).rows
    assert first[:3] == ("start", 4, 0.5) and first[5:] == (5.5, 3.0)
    assert first[3:5] == pytest.approx((0.15, 0.85), abs=1e-3), "Wilson"
    assert last[2] == 1.0 and last[6] is None
    run = made(tmp_path, heldout=cases)
    assert "held-out answers by their end" in {panel.title for panel in content(run)["plots"]["Answers"]}
