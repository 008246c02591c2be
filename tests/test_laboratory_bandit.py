"""The bandit: what pairs that never contradict each other make of two answers, where theory says it exactly."""

import math

import pytest

import zoo
from zoo.bundled.laboratory.bandit import rows
from zoo.data.load import load_records
from zoo.errors import ZooError
from zoo.training.run import resolve_options


def first(algo, place, **options):
    """π(y1) before and after, from the run's evaluation."""
    run = zoo.train(algo, data="world:bandit", quiet=True, save_every=0, out=str(place), **options)
    before, after = (run.summary["scores"][when]["bandit"] for when in ("before", "after"))
    odds = after["details"]["log_odds"]
    assert after["value"] == pytest.approx(1 / (1 + math.exp(-odds)))
    return before["value"], after["value"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_regression_on_the_difference_ends_where_the_paper_says(place):
    before, after = first("ipo", place, tau=0.5, reduction="sum", epochs=25)
    assert before == 0.5
    assert after == pytest.approx(1 / (1 + math.exp(-1 / (2 * 0.5))), abs=1e-3)


def test_a_logistic_loss_becomes_deterministic(place):
    assert first("dpo", place, beta=1.0, epochs=25)[1] > 0.99


def test_all_pairs_are_alike_and_there_is_nothing_else():
    pairs = load_records("world:bandit(rows=5)", "preference")
    assert len(pairs) == 5 and {(p["prompt"], p["chosen"], p["rejected"]) for p in pairs} == {
        ("choose", "first", "second")
    }
    for split, kind, told in (("train", "ranking", "only pairs"), ("heldout", "preference", "no split")):
        with pytest.raises(ZooError, match=told):
            rows(split, kind)
    core = resolve_options("ipo", None, {"data": "world:bandit"}, "command line")[0].core
    assert (core.lr, core.max_grad_norm, core.score, core.model) == (0.01, 0, "bandit", "world:bandit")
