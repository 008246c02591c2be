"""The change of a score: its interval against computations from outside, and what a run keeps to tell it from."""

import json
import math
import statistics

import numpy
import pytest
from made_runs import made
from tiny_runs import cli

import zoo
from zoo.comparison.finished import compare_runs
from zoo.evals import Score, mean_score, ratio_score, share_score
from zoo.evals.changes import averaged, change, change_of_values
from zoo.evals.kept_scores import changes_of, write_score
from zoo.report.run_page import changes, write_run_page
from zoo.runs import Run
from zoo.training.record.report import sample_pairs

DRAWN = numpy.random.default_rng(0)
BEFORE = DRAWN.normal(0.0, 1.0, 512)
AFTER = BEFORE + DRAWN.normal(0.13, 0.7, 512)
T_511 = 1.9646
"""The 97.5 % point of Student's t with 511 degrees of freedom, from a table."""


# -- the interval -------------------------------------------------------------------------------------------------


def test_the_interval_of_a_change_is_that_of_a_paired_t_test():
    found = change(mean_score("gold", BEFORE.tolist()), mean_score("gold", AFTER.tolist()))
    differences = AFTER - BEFORE
    half = T_511 * differences.std(ddof=1) / math.sqrt(512)
    assert found.value == pytest.approx(differences.mean()) and (found.n, found.paired) == (512, True)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=1e-4)
    independent = math.hypot(*(T_511 * side.std(ddof=1) / math.sqrt(512) for side in (BEFORE, AFTER)))
    assert found.noise == pytest.approx(half, rel=1e-4) and half < independent


def test_the_interval_of_a_change_of_shares_is_that_of_bonett_and_price():
    """Bentur (2009) in Fagerland, Lydersen and Laake (2014, doi 10.1002/sim.6148, table V): of 21 patients 1 became
    ill, 7 recovered, 1 stayed ill and 12 well. The interval is −0.508 to −0.013."""
    ill = [(0, 1)] * 1 + [(1, 0)] * 7 + [(1, 1)] * 1 + [(0, 0)] * 12
    first, second = (share_score("ill", [bool(one[side]) for one in ill]) for side in (0, 1))
    found = change(first, second)
    assert found.value == pytest.approx(-6 / 21) and found.paired
    assert (found.low, found.high) == pytest.approx((-0.508, -0.013), abs=5e-4)


def test_a_wide_change_of_shares_has_both_ends_and_keeps_to_what_shares_can_change():
    none, all_ = (share_score("x", [hit] * 3) for hit in (False, True))
    found = change(none, all_)
    assert (found.value, found.high) == (1.0, 1.0) and found.around == f"[{found.low:+.3f}, +1.000]"
    graded = change(*(mean_score("x", values, (0.0, 1.0)) for values in ([0.0, 0.1, 0.9], [1.0, 0.8, 0.1])))
    assert (graded.low, graded.high) == (-1.0, 1.0), "Student's t alone is −1.8 to 2.4"
    assert change(mean_score("x", [0.0, 2.0]), mean_score("x", [1.0, 5.0])).around.startswith("± ")


def test_the_interval_of_graded_answers_is_not_wider_than_that_of_independent_ones():
    """scipy 1.17: ttest_rel(second, first).confidence_interval(); independent samples have ± 0.33."""
    first = [0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 0.0, 0.25, 0.5, 1.0]
    second = [0.25, 0.25, 0.5, 0.75, 0.75, 1.0, 0.25, 0.5, 0.5, 1.0]
    found = change(*(mean_score("instructions", values, (0.0, 1.0)) for values in (first, second)))
    assert (found.low, found.high) == pytest.approx((0.007648, 0.192352), abs=2e-5)


def test_scores_whose_cases_are_not_known_are_taken_as_independent():
    """Newcombe's example (1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, table II, a):
    56/70 − 48/80 has the interval 0.0524 to 0.3339."""
    found = change(share_score("share", 48, 80), share_score("share", 56, 70))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5) and not found.paired
    other = Score("gold", 0.0, 512, -0.1, 0.1, about="others", cases=[0.0] * 512)
    assert not change(other, mean_score("gold", AFTER.tolist())).paired
    assert change(Score("lm", 0.1, 9, 0.1, 0.1), Score("lm", 0.2, 9, 0.1, 0.3)).noise is None


def test_the_change_of_a_ratio_is_told_from_what_each_case_adds():
    """Against resampling the cases with both their sums and their counts."""
    draw = numpy.random.default_rng(1)
    counts = draw.integers(1, 20, 300).astype(float)
    first = counts * draw.normal(1.0, 0.3, 300)
    second = first - 0.1 * counts * draw.normal(1.0, 0.5, 300)
    found = change(*(ratio_score("loss", sums.tolist(), counts.tolist()) for sums in (first, second)))
    drawn = draw.integers(0, 300, (20_000, 300))
    resampled = (second - first)[drawn].sum(1) / counts[drawn].sum(1)
    assert found.value == pytest.approx((second - first).sum() / counts.sum())
    assert (found.low, found.high) == pytest.approx(numpy.quantile(resampled, [0.025, 0.975]), abs=0.002)


def test_missing_values_keep_the_others_in_their_places():
    first, second = [1.0, None, 3.0, 2.0], [2.0, 9.0, 4.0, None]
    found = change_of_values(first, second)
    assert found.value == pytest.approx(5.0 - 2.0) and found.n == 4 and found.low < 3.0 < found.high
    assert statistics.mean(mean_score("", first).cases) == pytest.approx(2.0)
    assert change_of_values([1.0, None, 3.0], [2.0, None, 4.0]).noise is None, "all that is known rose alike"


def test_shares_that_change_alike_are_not_certain():
    found = change(share_score("share", [False] * 5), share_score("share", [True] * 5))
    assert found.value == 1.0 and found.low < 0.6 and found.sure
    assert change(share_score("share", [True]), share_score("share", [False])).noise is None


def test_seeds_are_averaged_case_by_case():
    mean = averaged([mean_score("gold", [0.0, 2.0, 4.0]), mean_score("gold", [2.0, 2.0, 5.0])])
    assert mean.cases == [1.0, 2.0, 4.5] and mean.value == pytest.approx(2.5)
    apart = averaged([mean_score("gold", [0.0, 2.0]), mean_score("gold", [2.0, 2.0, 5.0])])
    assert apart.cases == [] and apart.low < apart.value < apart.high


@pytest.mark.parametrize(
    "score",
    [
        mean_score("mean", [0.5, 1.0, 3.0]), mean_score("mean", [0.5, None, 3.0]),
        share_score("share", [True, False, None, True]), ratio_score("ratio", [1.0, 5.0], [2.0, 3.0]),
    ],
)  # fmt: skip
def test_the_mean_of_the_cases_is_the_score(score):
    assert statistics.mean(score.cases) == pytest.approx(score.value)
    assert "cases" not in score.as_json()


# -- what is kept -------------------------------------------------------------------------------------------------


def scored(folder, before, after, shown=20, **more):
    """A finished run with an evaluation of which some samples are kept."""
    sides = {"before": mean_score("gold", before), "after": mean_score("gold", after)}
    run = made(
        folder, scores={when: {"gold": score.as_json()} for when, score in sides.items()}, steps=1,
        status="finished", **{when: {"gold": score.value} for when, score in sides.items()},
    )  # fmt: skip
    for when, values in (("before", before), ("after", after)):
        sides[when].samples = [{"prompt": f"p{i}", "answer": "", "score": v} for i, v in enumerate(values[:shown])]
        write_score(run, when, sides[when])
    return run


def test_all_cases_are_kept_and_counted_though_few_answers_are(tmp_path):
    run = scored(tmp_path, BEFORE.tolist(), AFTER.tolist())
    half = T_511 * (AFTER - BEFORE).std(ddof=1) / math.sqrt(512)
    (row,) = changes(run)
    assert row["noise"] == pytest.approx(half, rel=1e-3) and row["n"] == 512
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 40
    kept = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert [len(one["cases"]) for one in kept] == [512, 512]
    assert f"± {half:.3f}" in write_run_page(run).read_text(encoding="utf-8")


def test_an_older_run_with_some_of_its_answers_is_taken_as_independent(tmp_path):
    run = scored(tmp_path, BEFORE.tolist(), AFTER.tolist())
    (tmp_path / "cases.jsonl").unlink()
    found = changes_of(run)["gold"]
    assert not found.paired and found.n == 512
    assert found.noise == pytest.approx(
        math.hypot(*(T_511 * side.std(ddof=1) / math.sqrt(512) for side in (BEFORE, AFTER))), rel=1e-3
    )
    assert len(sample_pairs(run)) == 20


def test_an_older_run_with_all_of_its_answers_is_paired(tmp_path):
    run = scored(tmp_path, BEFORE.tolist()[:30], AFTER.tolist()[:30], shown=30)
    with_cases = changes_of(run)["gold"]
    (tmp_path / "cases.jsonl").unlink()
    assert changes_of(run)["gold"].noise == pytest.approx(with_cases.noise) and changes_of(run)["gold"].paired


def test_finished_runs_are_compared_by_all_their_cases(tmp_path):
    runs = [scored(tmp_path / name, BEFORE.tolist(), after.tolist()) for name, after in (("a", BEFORE), ("b", AFTER))]
    (row,) = compare_runs(runs)["scores"]
    assert row["differences"][1]["change"] == pytest.approx((AFTER - BEFORE).mean())
    assert row["differences"][1]["n"] == 512 and row["differences"][1]["paired"]


def test_runs_that_were_asked_something_else_are_not_paired(tmp_path):
    runs = [scored(tmp_path / name, BEFORE.tolist(), AFTER.tolist()) for name in ("a", "b")]
    file = tmp_path / "b" / "cases.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "about": "other"}) + "\n" for row in rows))
    (row,) = compare_runs(runs)["scores"]
    assert not row["differences"][1]["paired"] and row["differences"][1]["low"] < 0 < row["differences"][1]["high"]


def test_a_run_in_the_gold_world_tells_its_change_from_all_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": "world:gold(steps=1)", "data": "world:gold(rows=64)", "max_steps": 2, "save_every": 0}
    run = zoo.train("sft", quiet=True, score="gold(samples=60),harm(samples=60)", **options)
    values = {
        row["when"]: numpy.array(row["cases"])
        for row in map(json.loads, (run.path / "cases.jsonl").read_text().splitlines())
        if row["eval"].startswith("gold")
    }
    differences = values["after"] - values["before"]
    found = changes_of(run)
    assert found["gold(samples=60)"].noise == pytest.approx(2.0010 * differences.std(ddof=1) / math.sqrt(60), rel=1e-4)
    assert found["harm(samples=60)"].paired
    status, shown, _ = cli("compare", run.path, run.path, "--json")
    assert status == 0 and json.loads(shown)["scores"][0]["differences"][1]["n"] == 60
    assert Run(run.path).summary["scores"]["after"]["gold(samples=60)"].keys() >= {"value", "low", "high", "n"}
