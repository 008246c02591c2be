"""A report that can be read: of a diverged run, on a narrow screen, with few answers, the important plots first."""

import math
import re

import pytest
from made_runs import made
from test_report import check

from zoo.evals import Score, share_score
from zoo.numbers import amount, decimal, signed
from zoo.report.plots.axes import FEWEST_CASES, number, tick_labels, ticks
from zoo.report.plots.bars import shares
from zoo.report.plots.lines import curves
from zoo.report.plots.panels import sections
from zoo.report.plots.series import Series
from zoo.report.run_page import content, write_run_page
from zoo.report.sections.answer_lengths import length_plots
from zoo.report.sections.overoptimisation import fit
from zoo.training.record.report import closing_panel


def text_of(file):
    return "".join(check(file.read_text(encoding="utf-8")).text)


# -- numbers ------------------------------------------------------------------------------------------------------


def test_a_diverged_run_has_short_numbers_everywhere(tmp_path, capsys):
    from zoo.terminal import Console

    values = {"before": {"val/loss": 2.0}, "after": {"val/loss": 5000.0}}
    rows = [{"step": k, "loss": 2.0 + 1e200 * k, "val/loss": 3.0 * k} for k in range(5)]
    run = made(tmp_path, metrics=rows, status="finished", steps=5, scores={}, **values)
    page = text_of(write_run_page(run))
    assert "+1.01e+304" in page and not re.search(r"\d[\d,]{20}", page)
    closing_panel(Console(width=80), run, {**run.summary, "after": {"val/loss": 1e304}})
    assert "1e+304" in capsys.readouterr().out
    assert Score("perplexity", 1e300, 5, 1e299, 2e300).text() == "1e+300 ± 1e+300 (n 5)"
    assert (decimal(0.5), decimal(123456.7), signed(-0.25), signed(1e6)) == ("0.500", "123456.700", "-0.250", "+1e+06")


def test_one_is_singular():
    assert [amount(1, "row"), amount(0, "row"), amount(2000, "row")] == ["1 row", "0 rows", "2,000 rows"]
    assert [amount(1, "process", "processes"), amount(2, "process", "processes")] == ["1 process", "2 processes"]


@pytest.mark.parametrize("low, high", [(0.69312, 0.69316), (1000.1, 1000.9), (-5e-7, 5e-7), (0, 1e7), (1e9, 1e9 + 5)])
def test_no_two_ticks_have_one_label(low, high):
    values = ticks(low, high)
    labels = tick_labels(values)
    assert len(set(labels)) == len(values) > 1
    assert [float(label.replace(",", "")) for label in labels] == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert tick_labels([0.1, 0.2]) == [number(0.1), number(0.2)]


def test_names_that_begin_alike_stay_apart_below_their_bars():
    plot = shares("right", {"a long beginning, one": (1, 2), "a long beginning, two": (1, 2)}, "subset")
    assert "a long…ng, one" in plot.svg and "a long…ng, two" in plot.svg


# -- what a plot says ---------------------------------------------------------------------------------------------


def test_curves_name_their_y_axis():
    plot = curves("rewards/margins", {"training": [(1.0, 0.5), (2.0, 0.75)]})
    assert re.search(r"rotate\(-90[^>]*>rewards/margins</text>", plot.svg)
    assert "…</text>" in curves("a" * 60, {"training": [(1.0, 0.5)]}).svg


@pytest.mark.parametrize("cases", [FEWEST_CASES - 1, FEWEST_CASES])
def test_an_interval_of_few_answers_is_left_out(tmp_path, cases):
    samples = [
        {"eval": "held-out", "when": "step 8", "prompt": f"p{i}", "answer": "x", "score": i % 2, "cut": i == 0}
        for i in range(cases)
    ]
    page = text_of(write_run_page(made(tmp_path, samples=samples)))
    score, cut = share_score("", 1, cases), f"n {cases}"
    assert (f"{number(score.low)} to {number(score.high)}" in page) == (cases >= FEWEST_CASES) and cut in page
    plot = shares("right", {"few": (1, cases)}, "subset")
    assert ('stroke-width="1.2"' in plot.svg) == (cases >= FEWEST_CASES)
    same = [{"eval": "exact", "when": when, "prompt": f"p{i}", "answer": "a b " * (1 + i % 3), "score": i % 2}
            for when in ("before", "after") for i in range(2 * cases)]  # fmt: skip
    (lengths,) = length_plots({}, same)
    assert ("±" in lengths.note) == (cases >= FEWEST_CASES)


def test_what_matters_stands_first_and_what_it_cost_last(tmp_path):
    names = ("memory_gb", "seconds/training", "lr", "grad_norm", "rewards/margins", "loss", "length")
    rows = [{"step": k, **dict.fromkeys(names, 1.0 * k)} for k in range(1, 4)]
    found = sections(Series(rows), {})
    assert list(found) == ["Training", "Answers", "Time"]
    assert [plot.title for plot in found["Training"]] == ["loss", "rewards/margins", "grad_norm", "lr"]
    held_out = {when: {"step": k, "values": {"margin": [k + i / 10 for i in range(9)]}}
                for k, when in enumerate(("first", "last"))}  # fmt: skip
    run = made(tmp_path, metrics=rows, heldout=held_out)
    assert list(content(run)["plots"]) == ["Training", "Answers", "Held-out cases", "Time"]


# -- over-optimisation --------------------------------------------------------------------------------------------


def test_a_fitted_top_away_from_the_measured_one_is_not_named():
    """Points of a run of ppo in world:gold whose gold score collapses; their highest lies at KL 5.7."""
    kl = [0.0, 0.5, 1.6, 3.2, 5.7, 9.0, 14.0, 19.0, 24.0, 28.0]
    values = [0.0, 0.5, 0.9, 1.2, 1.4, 0.6, -1.5, -3.6, -5.5, -7.0]
    found = fit([(math.sqrt(k), value) for k, value in zip(kl, values, strict=True)])
    by_law = math.exp(2 * (found.alpha / found.beta - 1))
    assert found.beta > found.beta_noise and not 3.2 <= by_law <= 9.0, "the law alone would have named one"
    assert found.peak is None and "no significant peak, highest measured 1.4 at KL 5.7" in found.text()


# -- narrow screens -----------------------------------------------------------------------------------------------


def test_tables_scroll_by_themselves_and_plots_are_no_wider_than_the_page(tmp_path):
    page = write_run_page(made(tmp_path, metrics=[{"step": 1, "loss": 1.0}])).read_text(encoding="utf-8")
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert re.search(r"table \{[^}]*display: block;[^}]*overflow-x: auto", style)
    assert "minmax(min(21rem, 100%), 1fr)" in style
