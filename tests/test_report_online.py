"""The report of a run that learns from its own answers, and of reward models: known numbers in, known numbers out."""

import csv
import math
import re

import pytest
from made_runs import changed, gold, made, online_rows, online_samples, warnings_of
from test_report import check

from zoo.evals.pairs import Pair
from zoo.report.comparison_page import write_runs_page
from zoo.report.plots import bars
from zoo.report.plots.panels import group_histogram, heading_of, panel_of
from zoo.report.plots.series import Series
from zoo.report.run_page import changes, content, write_run_page
from zoo.report.sections import answers
from zoo.report.sections.alarms import alarms
from zoo.report.sections.overoptimisation import fit, frontier, plot_frontiers


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# -- distance ------------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_law_that_made_the_points():
    """α 0.5, β 0.2: the top lies at log d = 1.5, KL e³."""
    found = fit([(d, gold(d)) for d in (0.0, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0)])
    assert (found.alpha, found.beta) == pytest.approx((0.5, 0.2))
    assert found.peak == pytest.approx(math.exp(3)) and found.start == pytest.approx(0.1) and found.n == 6
    assert found.alpha_noise < 1e-6 and found(6.0) == pytest.approx(gold(6.0))
    assert "α 0.5" in found.text() and "peak at KL 20.09" in found.text()


def test_the_fit_is_that_of_least_squares_and_its_intervals_those_of_student():
    """Against numpy's least squares on points that lie off the law."""
    import numpy

    ds = numpy.array([1.0, 2.0, 3.0, 5.0, 7.0])
    ys = numpy.array([0.3, 0.7, 0.6, 1.0, 0.8])
    design = numpy.stack([ds, -ds * numpy.log(ds)], 1)
    expected, (left,), *_ = numpy.linalg.lstsq(design, ys, rcond=None)
    half = 3.182446 * numpy.sqrt(left / 3 * numpy.diag(numpy.linalg.inv(design.T @ design)))
    found = fit([(0.0, 0.0), *zip(ds, ys, strict=True)])
    assert (found.alpha, found.beta) == pytest.approx(expected)
    assert (found.alpha_noise, found.beta_noise) == pytest.approx(half, rel=0.01)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)],
        [(2.0, 0.0), (3.0, 1.0), (4.0, 1.0), (5.0, 1.0), (6.0, 2.0)],
        [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)],
        [(0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0)],
    ],
)
def test_too_little_gives_no_fit(points):
    """Too few points, no start among them, or all at one place."""
    assert fit(points) is None


def test_a_law_without_a_top_says_so():
    found = fit([(d, d * (0.1 + 0.05 * math.log(d)) if d else 0.0) for d in (0.0, 1.0, 2.0, 3.0, 4.0)])
    assert found.beta == pytest.approx(-0.05) and found.peak is None and "no significant peak" in found.text()


def test_points_that_may_as_well_lie_on_a_line_have_no_top():
    noisy = fit([(0.0, 0.0), (1.0, 0.5), (2.0, 0.4), (3.0, 1.5), (4.0, 1.0), (5.0, 1.9)])
    assert noisy.beta_noise > abs(noisy.beta) and noisy.peak is None


def test_points_of_the_frontier_are_the_validations():
    found = frontier(Series(online_rows()), "gold")
    assert [step for *_, step in found] == list(range(0, 41, 4))
    assert [d for d, *_ in found] == pytest.approx([12 * i / 10 for i in range(11)])
    assert [value for _, value, _ in found] == pytest.approx([gold(12 * i / 10) for i in range(11)])


def test_one_run_shows_reward_and_gold_with_the_fit_and_several_a_line_for_each():
    (plot,) = plot_frontiers({"one": Series(online_rows())})
    assert list(plot.names) == ["val/reward", "val/gold"] and plot.svg.count('class="fit"') == 2
    assert "val/gold: α 0.5 ± " in plot.note and "d (α − β log d)" in plot.note
    reward, other = plot_frontiers({name: Series(online_rows()) for name in ("one", "two")})
    assert list(reward.names) == list(other.names) == ["one", "two"]
    assert (reward.title, other.title) == ("reward against √KL", "gold against √KL")


def test_without_validation_the_rollouts_are_drawn_and_without_a_reference_nothing():
    rows = [row for row in online_rows() if "loss" in row]
    (plot,) = plot_frontiers({"one": Series(rows)})
    assert list(plot.names) == ["rollout/reward"]
    assert (
        plot_frontiers({"one": Series([{"step": 1, "rollout/reward": 1.0}, {"step": 2, "rollout/reward": 1.5}])}) == []
    )


def test_distance_is_that_of_held_out_answers_and_else_the_estimate_that_is_never_negative():
    assert Series(online_rows()).kl[0] == "val/kl"
    rows = [{key: value for key, value in row.items() if key != "val/kl"} for row in online_rows()]
    assert Series(rows).kl[0] == "kl_k3"
    assert Series([{"step": i, "kl": 0.5 * i - 0.5} for i in range(3)]).root_kl()(0) == 0.0, (
        "an estimate below 0 is near 0"
    )
    assert Series([{"step": i, "kl": -0.1 * i} for i in range(3)]).root_kl() is None, "below 0 there is no distance"


# -- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return made(
        tmp_path / "mine", metrics=online_rows(), samples=online_samples(), status="finished", steps=40,
        timing={"cpu_seconds": 9.0, "generation_seconds": 4.0},
    )  # fmt: skip


def test_the_page_is_whole_and_every_plot_has_its_numbers_beside_it(run):
    page = write_run_page(run).read_text(encoding="utf-8")
    parser = check(page)
    files = [value for value in parser.loaded if value.endswith(".csv")]
    assert len(files) == len(set(files)) == page.count("<figure>") and all((run.path / f).is_file() for f in files)
    assert {f.name for f in (run.path / "report-data").iterdir()} == {f.split("/")[1] for f in files}
    text = " ".join(" ".join(parser.text).split())
    for part in ("reward against √KL", "generation seconds", "95 % interval", "Policy and critic", "be kind"):
        assert part in text
    assert len(page) < 400_000


def test_the_x_axis_is_switched_by_buttons_without_a_script(run):
    page = write_run_page(run).read_text(encoding="utf-8")
    assert re.findall(r'type="radio" name="axis" class="axis-(\w+)"', page) == ["step", "tokens", "kl"]
    assert page.count(" checked>") == 1
    figure = page[page.index("<b>entropy</b>") :].split("</figure>")[0]
    assert re.findall(r'<div class="by-(\w+)">', figure) == ["step", "tokens", "kl"]


def test_the_csv_holds_every_point_on_every_axis(run):
    write_run_page(run)
    rows = table(run.path / "report-data" / "entropy.csv")
    assert list(rows[0]) == ["series", "step", "num_tokens", "sqrt_kl", "value"] and len(rows) == 40
    last = {name: float(value) for name, value in rows[-1].items() if name != "series"}
    assert last == pytest.approx({"step": 40, "num_tokens": 4000, "sqrt_kl": 12.0, "value": 1.6})
    middle = table(run.path / "report-data" / "reward-against-root-kl.csv")
    assert [row["step"] for row in middle if row["series"] == "val/gold"][:2] == ["0", "4"]


def test_a_second_report_replaces_the_files_of_the_first(run):
    write_run_page(run)
    (run.path / "report-data" / "old.csv").write_text("x")
    write_run_page(run)
    assert not (run.path / "report-data" / "old.csv").exists()
    assert not list(run.path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("name", "panel", "line", "heading"),
    [
        ("rollout/reward", "reward", "training", "Reward"),
        ("val/gold", "reward", "gold, held-out", "Reward"),
        ("rollout/reward/exact", "reward/exact", "training", "Reward"),
        ("val/length", "length", "held-out", "Answers"),
        ("kl_k3", "kl_k3", "training", "Distance from the start"),
        ("objective/kl", "objective/kl", "training", "Distance from the start"),
        ("val/kl", "kl, held-out", "held-out", "Distance from the start"),
        ("approx_kl_k3", "approx_kl", "approx_kl_k3, training", "Policy and critic"),
        ("clip_high", "clip shares", "high, training", "Policy and critic"),
        ("value_loss", "value_loss", "training", "Policy and critic"),
        ("clip_share_low", "clip shares", "low, training", "Policy and critic"),
        ("value/explained_variance", "value/explained_variance", "training", "Policy and critic"),
        ("val/logps/chosen", "logps", "chosen, held-out", "Training"),
        ("loss", "loss", "training", "Training"),
    ],
)
def test_metrics_find_their_plot_by_their_names(name, panel, line, heading):
    assert panel_of(name) == (panel, line) and heading_of(panel) == heading


def test_reward_parts_stand_apart_and_reward_and_gold_together(run):
    drawn = {plot.title: plot for plot in content(run)["plots"]["Reward"]}
    assert set(drawn["reward"].names) == {"training", "held-out", "gold, held-out"}
    assert {"reward/exact", "reward/length", "flat_groups", "missing", "reward_std"} < set(drawn)


def test_prompts_are_counted_by_right_answers_at_the_start_and_at_the_end():
    rows = [{"step": i, "rollout/groups/0": 0.5 - 0.01 * i, "rollout/groups/1": 0.5 + 0.01 * i} for i in range(1, 21)]
    plot = group_histogram(Series(rows))
    assert [row[:2] for row in plot.rows] == [("start", "0"), ("start", "1"), ("end", "0"), ("end", "1")]
    assert [row[2] for row in plot.rows] == pytest.approx([0.485, 0.515, 0.305, 0.695])


def test_runs_beside_each_other_share_plots_and_axes(tmp_path, run):
    other = made(tmp_path / "other", metrics=changed(online_rows(), val__gold=0.3), status="finished")
    found = {
        "runs": [{"name": r.name} for r in (run, other)],
        "same_data": True,
        "same_algorithm": True,
        "options": {},
        "scores": [],
        "metrics": [],
    }
    page = write_runs_page(tmp_path / "page", found, [run, other]).read_text(encoding="utf-8")
    check(page)
    assert re.findall(r'class="axis-(\w+)"', page) == ["step", "tokens", "kl"]
    rows = table(tmp_path / "page" / "report-data" / "gold-against-root-kl.csv")
    assert {row["series"] for row in rows} == {"mine", "other"} and len(rows) == 22


# -- answers -------------------------------------------------------------------------------------------------------


def test_answers_to_a_prompt_stand_in_the_order_of_time_with_length_score_and_what_else_is_known():
    case = answers.by_prompt(online_samples())[0]
    assert [answer["when"] for answer in case["answers"]] == ["before", "step 10", "step 20", "after"]
    assert case["change"] == 0.75 and case["answers"][1]["length"] == "4 tokens"
    assert case["answers"][0]["details"] == {"cut": True, "principle": "be kind"}


def test_of_many_moments_the_first_the_last_and_some_between_are_shown():
    moments = ["before", *(f"step {i}" for i in range(2, 30, 3)), "after"]
    shown = [answer["when"] for answer in answers.by_prompt(online_samples(moments))[0]["answers"]]
    assert shown[0] == "before" and shown[-1] == "after" and len(shown) == answers.MOMENTS_SHOWN


def test_prompts_seen_once_are_listed_along_the_way():
    assert [row["when"] for row in answers.passing(online_samples())] == ["step 0", "step 1", "step 2"]


def test_every_moment_has_its_mean_score_with_n_and_interval():
    first = answers.moments(online_samples(prompts=8))[0]
    assert (first["eval"], first["when"], first["n"]) == ("held-out", "before", 8)
    assert first["score"].value == 0 and 0.2 < first["score"].high < 0.5, (
        "eight zeros do not prove that there are no ones"
    )
    assert first["cut"].value == 1 / 8 and first["cut"].low < 1 / 8 < first["cut"].high


def test_of_many_rollouts_some_are_counted():
    samples = [{"eval": "rollout", "when": f"step {i}", "prompt": "p", "answer": "a", "score": 1.0} for i in range(50)]
    assert [row["when"] for row in answers.moments(samples)] == [f"step {i}" for i in (0, 10, 20, 29, 39, 49)]


def test_numbers_of_held_out_cases_have_n_and_interval(tmp_path):
    values = {"reward": [0.0, 1.0, 1.0, None, 1.0, 0.0, 1.0, 1.0, 1.0]}
    first = {"reward": [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]}
    run = made(
        tmp_path, before={"val/reward": 0.2}, after={"val/reward": 0.75},
        heldout={"first": {"step": 0, "values": first}, "last": {"step": 4, "values": values}},
    )  # fmt: skip
    (row,) = changes(run)
    assert row["n"] == 8 and row["low"] < 0.75 < row["high"] and row["change"] == pytest.approx(0.55)
    # Every case but the missing one is known on both sides; half rose by 1, half stayed.
    assert 0.3 < row["noise"] < 0.6


def test_loss_a_token_is_shown_as_perplexity_too(tmp_path):
    rows = changes(made(tmp_path, algo="sft", before={"val/loss": 2.0}, after={"val/loss": 1.0}))
    assert rows[1]["name"] == "perplexity, exp(val/loss)"
    assert (rows[1]["before"], rows[1]["after"]) == pytest.approx((math.e**2, math.e))
    other = made(tmp_path / "pairs", algo="dpo", before={"val/loss": 0.7}, after={"val/loss": 0.5})
    assert len(changes(other)) == 1, "the loss of pairs is none"


# -- alarms --------------------------------------------------------------------------------------------------------


def test_a_sound_run_gives_no_alarm():
    rows = changed(online_rows(), val__gold=lambda row: 0.1 + 0.01 * row["step"], val__kl=lambda row: row["step"] / 2)
    assert alarms(Series(rows)) == []


def test_a_gold_score_that_only_jumps_about_has_not_fallen():
    """Gold scores of a run of ppo against a reward model, on 64 prompts; the answers of a larger set became better."""
    gold = [0.531, 0.508, 0.578, 0.508, 0.531, 0.477, 0.547]
    rows = [{"step": 4 * i, "val/reward": i / 5, "val/gold": score, "val/kl": 0.7 * i} for i, score in enumerate(gold)]
    assert alarms(Series(rows)) == []
    fallen = [row | {"val/gold": score} for row, score in zip(rows, [0.5, 0.6, 0.65, 0.6, 0.5, 0.35, 0.2], strict=True)]
    assert "val/gold fell by 0.45 after step 8 (0.65 → 0.2)" in alarms(Series(fallen))[0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "Over-optimised: val/reward rose by 0.4 over the run while val/gold fell by 0.8579 after step 16 "
             "(0.9941 → 0.1362); the fitted peak is at KL 20.09."),
        ({"rollout__reward_std": 0.0}, "The reward was constant in 40 of 40 rollouts"),
        ({"rollout__flat_groups": 0.75},
         "For 75% of the prompts all answers had the same reward (mean over 40 rollouts)"),
        ({"rollout__missing": 0.2}, "20% of the answers had no reward"),
        ({"rollout__cut": 0.6}, "60% of the answers were cut"),
        ({"val__length": lambda row: 20.0 + row["step"]}, "Mean length ×3.0: val/length went from 20 to 60 tokens."),
        ({"entropy": lambda row: 2.0 if row["step"] < 20 else 0.2},
         "The entropy collapsed to 10% of its initial value (2 → 0.2)"),
        ({"ratio_max": lambda row: 30.5 if row["step"] == 7 else 1.0}, "was 30.5, at step 7."),
        ({"value__explained_variance": -0.5}, "explained variance ended at -0.50"),
        ({"rollout__engine_gap": 0.2}, "differ from the trainer's by 0.200 per token"),
        ({"val__kl": lambda row: 3.0 * row["step"]}, "KL from the reference reached 120 nats per answer, at step 40."),
    ],
)  # fmt: skip
def test_red_flags_are_sentences_with_numbers(values, sentence):
    calm = {"val__gold": lambda row: 0.1 + 0.01 * row["step"], "val__kl": lambda row: row["step"] / 2} if values else {}
    found = alarms(Series(changed(online_rows(), **{**calm, **values})))
    assert sentence in found[0] and (len(found) == 1 or not values)


def test_good_answers_that_lose_probability_are_flagged_for_labels_too(tmp_path):
    run = made(tmp_path, before={"val/logps/desirable": -40.0}, after={"val/logps/desirable": -55.0})
    assert "The desirable answers of the held-out data became less likely" in warnings_of(run)[0]


# -- pairs and cases -----------------------------------------------------------------------------------------------


def pair_samples(when, margins):
    """Pairs of these margins; the chosen answer is twice as long as the rejected one where the margin is above 0."""
    pairs = [Pair(m, 0.0, 20 if m > 0 else 10, 10 if m > 0 else 20) for m in margins]
    return [{"eval": "pairs", "when": when, **pair.as_sample(f"p{i}", "a", "b")} for i, pair in enumerate(pairs)]


def test_scored_pairs_give_margins_calibration_and_what_length_has_to_do_with_it(tmp_path):
    samples = pair_samples("before", [-1.0, 0.5, -0.5, 0.2]) + pair_samples("after", [2.0, 2.0, -2.0, 2.0])
    run = made(tmp_path, algo="rm", samples=samples, head="scalar")
    write_run_page(run)
    folder = run.path / "report-data"
    margins = table(folder / "pairs-margins.csv")
    assert {row["n"] for row in margins} == {"4"} and sum(int(row["count"]) for row in margins) == 8
    (calibration,) = table(folder / "pairs-calibration.csv")
    assert float(calibration["confidence"]) == pytest.approx(1 / (1 + math.exp(-2)))
    assert (float(calibration["accuracy"]), calibration["n"]) == (0.75, "4")
    assert (float(calibration["low"]), float(calibration["high"])) == pytest.approx((0.3006, 0.9544), abs=1e-3), (
        "Wilson"
    )
    right = {row["(chosen − rejected) / longer, tokens"]: row for row in table(folder / "pairs-right-by-length.csv")}
    assert {name: (float(row["share"]), row["n"]) for name, row in right.items()} == {
        "-0.5 … -0.1": (0.0, "1"),
        "≥ 0.5": (1.0, "3"),
    }
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert f"Expected calibration error {1 / (1 + math.exp(-2)) - 0.75:.3f}, n 4 pairs" in page
    assert re.search(r"r = [+-]0\.\d{3}, n 8 answers", page)


def test_log_probabilities_of_pairs_claim_no_certainty(tmp_path):
    run = made(tmp_path, samples=pair_samples("before", [-1.0, 0.5]) + pair_samples("after", [1.0, 0.5]), head="lm")
    titles = [plot.title for plot in content(run)["plots"]["Held-out cases"]]
    assert "pairs: margins" in titles and "pairs: calibration" not in titles


def test_texts_of_scored_pairs_do_not_count_as_the_models_answers(tmp_path):
    assert answers.mean_words(pair_samples("before", [1.0]) + pair_samples("after", [1.0])) == (None, None)


def test_held_out_metrics_are_drawn_case_by_case(tmp_path):
    values = {
        "rewards/margins": [0.1 * i for i in range(20)],
        "rewards/chosen": [0.2 * i for i in range(20)],
        "rewards/rejected": [None, *(-0.1 * i for i in range(19))],
        "rewards/accuracies": [0.0, 1.0] * 10,
    }
    first = {name: [0.01 * i for i in range(20)] for name in values}
    run = made(
        tmp_path, algo="dpo", heldout={"first": {"step": 0, "values": first}, "last": {"step": 9, "values": values}}
    )
    drawn = {plot.title: plot for plot in content(run)["plots"]["Held-out cases"]}
    assert set(drawn) == {"held-out rewards/margins", "held-out rewards"}, "a share of two values is no histogram"
    assert list(drawn["held-out rewards/margins"].names) == ["start", "end"]
    assert list(drawn["held-out rewards"].names) == ["chosen, end", "rejected, end"]
    assert sum(row[3] for row in drawn["held-out rewards"].rows if row[0] == "rejected, end") == 19


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [0.0, 1.0, 2.0], [-1e6, 1e6], [1e-9, 2e-9], [0.1 * i for i in range(99)]]
)
def test_a_histogram_counts_every_value_once(values):
    plot = bars.histogram("scores", {"a": values}, "score")
    assert sum(row[3] for row in plot.rows) == len(values)
    for _, low, high, count, _ in plot.rows:
        inside = sum(low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high) for value in values)
        assert count <= inside
    assert all(0 <= float(y) <= 230 for y in re.findall(r'<rect x="[\d.]+" y="([\d.-]+)"', plot.svg))
