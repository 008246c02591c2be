"""Recipes as somebody gets them wrong who is new to them: told in a few words, before anything runs."""

import pytest
from tiny_runs import cli

GOOD = """
title: My recipe
paper: {arxiv: "2402.01306", version: v1}
hardware: none
stages:
  sft: {algo: sft, start: "world:gold(seed={seed})", data: world:gold}
laptop:
  tests: that it runs
  seeds: 1
  minutes: 1
  caveat: tiny
  stages:
    sft: {algo: sft, start: "world:gold(seed={seed})", data: world:gold, max_steps: 2}
  claims:
    - {id: loss, says: The loss ends low, metric: sft.loss, below: 100, where: nowhere}
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What `zoo …` says to a recipe with the laptop's `old` replaced by `new`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def say(old="", new="", *arguments):
        full, laptop, rest = GOOD.partition("laptop:")
        assert old in rest
        (tmp_path / "mine.yaml").write_text(full + laptop + (rest.replace(old, new) if old else rest))
        status, out, err = cli(*(arguments or ("reproduce", "mine.yaml", "--laptop", "--dry-run")))
        assert "Traceback" not in err
        return status, " ".join((out + err).split())

    return say


def test_the_recipe_is_good_before_it_is_spoilt(told):
    status, text = told()
    assert status == 0 and "world:gold(seed=100)" in text


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("{seed}", "{sed}", 13, "{sed} is not a placeholder; only {seed} is"),
        ("below: 100", "below: .nan", 15, "must be a finite number, not nan"),
        ("below: 100", "above: -.inf", 15, "must be a finite number"),
        ("data: world:gold", "data: world:gould", 13, "No world is called 'gould'. Did you mean 'gold'?"),
        ("data: world:gold", 'data: "world:gold(nois=0.2)"', 13, "has no option 'nois'. Did you mean 'noise'?"),
        ("max_steps: 2", "max_steps: many", 13, "'many'"),
        ('"world:gold(seed={seed})"', "stage:sft", 13, "need each other"),
    ],
)
def test_a_mistake_is_told_with_its_line(told, old, new, line, message):
    status, text = told(old, new)
    assert status == 2 and f"mine.yaml:{line}:" in text and message in text


def test_a_folder_that_cannot_be_made_is_told(told):
    status, text = told("", "", "reproduce", "mine.yaml", "--laptop", "--out", "mine.yaml")
    assert status == 2 and "cannot be written: Not a directory. Name another folder with --out." in text


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_list_keeps_the_ids_of_papers_in_one_piece(told, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    _, text = told("", "", "recipes")
    assert " 2402.01306 " in text
