"""What a report tells of pairs by their origin, of rewards by length, and of the steps that took longest."""

import csv
from pathlib import Path

import pytest
import torch
from made_runs import made
from test_report import check
from tiny_runs import trainer

from zoo.evals.pairs import Pair
from zoo.report.run_page import content, write_run_page
from zoo.report.sections.implicit_rewards import implicit_reward_plots
from zoo.report.sections.step_times import slowest_steps
from zoo.report.sections.subsets import subset_panels
from zoo.training.step.timing import most_memory


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# -- subsets -------------------------------------------------------------------------------------------------------


def pairs_of(subset, margins, column="subset"):
    record = {"prompt": "p", "chosen": "a", "rejected": "b", column: subset}
    return [{"eval": "pairs", "when": "after", **Pair(m, 0.0, 9, 8).sample_of(record)} for m in margins]


def test_pairs_are_counted_by_the_part_of_the_data_that_they_come_from(tmp_path):
    samples = pairs_of("chat", [1.0, 2.0, -1.0, 2.0]) + pairs_of("maths", [-1.0, 0.0], "source")
    run = made(tmp_path, algo="rm", samples=samples, head="scalar")
    check(write_run_page(run).read_text(encoding="utf-8"))
    bars = [(row["subset"], float(row["share"]), row["n"]) for row in table(
        run.path / "report-data" / "pairs-right-by-subset.csv"
    )]  # fmt: skip
    assert bars == [("chat", 0.75, "4"), ("maths", 0.25, "2")]
    chat, maths = table(run.path / "report-data" / "pairs-subsets.csv")
    assert (chat["subset"], chat["pairs"], float(chat["mean margin"])) == ("chat", "4", 1.0)
    # Wilson, for 3 of 4.
    assert (float(chat["low"]), float(chat["high"])) == pytest.approx((0.3006, 0.9544), abs=1e-3)
    assert float(maths["right"]) == 0.25, "a tie counts half"


def test_many_subsets_are_a_table_and_one_or_none_is_nothing():
    many = [row for k in range(30) for row in pairs_of(f"part {k}", [1.0] * (1 + k % 3))]
    (panel,) = subset_panels(many)
    assert len(panel.rows) == 24 and panel.rows[0][1] == 3 and panel.rows[-1][1] == 1
    assert subset_panels(pairs_of("chat", [1.0])) == []
    assert subset_panels(pairs_of("", [1.0, 2.0])) == [], "an empty name is none"


# -- rewards by length ---------------------------------------------------------------------------------------------


def last(**columns):
    return {"last": {"step": 9, "values": {name.replace("__", "/"): values for name, values in columns.items()}}}


def test_margins_stand_against_what_the_chosen_answers_are_longer(tmp_path):
    cases = last(
        rewards__chosen=[1.0, 2.0, 3.0, None], rewards__rejected=[0.0, 0.0, 4.0, 0.0],
        length__chosen=[10.0, 20.0, 30.0, 5.0], length__rejected=[9.0, 18.0, 31.0, 5.0],
    )  # fmt: skip
    run = made(tmp_path, algo="dpo", heldout={"first": cases["last"], **cases})
    check(write_run_page(run).read_text(encoding="utf-8"))
    rows = table(run.path / "report-data" / "held-out-margins-against-difference-in-length.csv")
    assert [tuple(map(float, list(row.values())[1:])) for row in rows] == [(1, 1), (2, 2), (-1, -1)]
    by_side, of_pairs = implicit_reward_plots(cases)
    assert "r: +1.00 (n 3)" in of_pairs.note and "2 of 2 are above 0" in of_pairs.note
    assert [row[0] for row in by_side.rows].count("chosen") == 3
    titles = {panel.title for panel in content(run)["plots"]["Held-out cases"]}
    assert not any(title.startswith("held-out length") for title in titles), "lengths of data are no result"


def test_labelled_answers_have_one_length_for_either_label_and_without_lengths_nothing_is_drawn():
    cases = last(rewards__desirable=[1.0, None], rewards__undesirable=[None, -1.0], length__completion=[7.0, 9.0])
    (plot,) = implicit_reward_plots(cases)
    assert plot.rows == [("desirable", 7.0, 1.0), ("undesirable", 9.0, -1.0)]
    assert implicit_reward_plots(last(rewards__chosen=[1.0], rewards__rejected=[0.0])) == []
    assert implicit_reward_plots(last(reward=[1.0], length=[2.0])) == [] == implicit_reward_plots({})


def test_a_run_keeps_the_lengths_of_held_out_pairs(tmp_path, tiny_folder):
    run = trainer(tmp_path, tiny_folder)("dpo", rows=20, max_steps=2, eval_fraction=0.4)
    kept = run.read_json("heldout.json")["last"]["values"]
    assert len(kept["length/chosen"]) == len(kept["length/rejected"]) == len(kept["rewards/margins"])
    assert all(length >= 1 for length in kept["length/chosen"])
    assert "held-out margins against difference in length" in {
        plot.title for plot in content(run)["plots"]["Held-out cases"]
    }


# -- time and memory -----------------------------------------------------------------------------------------------


def test_the_slowest_steps_are_named_with_what_was_in_them(tmp_path):
    timings = [{"step": 2 * k, "seconds/training": 2.0, "memory_gb": 1.0 + 0.1 * k} for k in range(1, 11)]
    timings[3] |= {"seconds/training": 6.0, "seconds/rollout": 8.0, "seconds/generation": 7.0}
    metrics = [{"step": 2 * k, "num_tokens": 100.0 * k, "rollout/length_max": 5.0 * k} for k in range(1, 11)]
    run = made(tmp_path, metrics=metrics, timings=timings)
    check(write_run_page(run).read_text(encoding="utf-8"))
    rows = table(run.path / "report-data" / "slowest-steps.csv")
    assert len(rows) == 5 and rows[0] == {
        "step": "8", "seconds": "7.0", "× median": "7.0", "training": "3.0", "rollout": "4.0", "generation": "3.5",
        "tokens trained": "50.0", "longest answer": "20.0",
    }, "every second step is logged"  # fmt: skip
    memory = table(run.path / "report-data" / "memory-gb.csv")
    assert [float(row["value"]) for row in memory] == pytest.approx([1.0 + 0.1 * k for k in range(1, 11)])
    assert slowest_steps(metrics, timings[:7]) is None


def test_the_most_memory_lies_between_what_is_held_now_and_what_the_system_says_of_the_process():
    resource = pytest.importorskip("resource")
    if most_memory() is None or torch.cuda.is_available():
        pytest.skip("that of the process is not asked for here")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now, ever = pages * resource.getpagesize() / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    assert 0.95 * now <= most_memory() <= 1.05 * ever
