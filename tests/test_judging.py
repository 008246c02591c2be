"""Judging runs: what is fixed before them, which seeds they have, and how far `--until-decided` goes."""

import json
import shutil
from pathlib import Path

import pytest
from packages import forget_modules, put_on_path, run
from tiny_runs import cli

from zoo.recipes.load import load_recipe
from zoo.recipes.registered import entries, first_seed

WORDS = Path(__file__).parent / "recipes" / "zoo-words"
RECIPE = """
title: The seed grows with the seed
paper: {arxiv: "0000.00000", version: made up}
hardware: none
stages: {fact: {evals: {fact: "number(of=1)"}}}
laptop:
  tests: The number of the seed.
  seeds: 3
  minutes: 1
  caveat: Nothing follows.
  stages: {fact: {evals: {fact: "number(of={seed})"}}}
  claims:
    - {id: high, says: Seeds are high., metric: fact.fact, above: 18, where: nowhere}
    - {id: low, says: Seeds are low., metric: fact.fact, below: 10, where: nowhere}
"""
RECORD = ("reproduce", "grows", "--laptop", "--record")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package with the recipe `grows`, under version control; the working folder is beside it."""
    folder = Path(shutil.copytree(WORDS, tmp_path / "zoo-words"))
    recipes = folder / "zoo_words"
    (recipes / "words.yaml").unlink()
    (recipes / "grows.yaml").write_text(RECIPE)
    git(recipes, "init", "-q")
    monkeypatch.chdir(tmp_path)
    put_on_path(folder, monkeypatch)
    yield recipes
    forget_modules(folder)


def git(folder, *words):
    return run("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words, cwd=folder).strip()


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "so far")
    return git(folder, "log", "-1", "--format=%H")


def test_a_judging_run_is_registered_and_committed_before_it_starts(package):
    status, out, err = cli(*RECORD)
    assert status == 2 and "grows.yaml has changes that are not committed" in err and "stage 1" not in out
    fixed = commit(package)
    status, out, err = cli(*RECORD)
    assert status == 2 and "now has a line for each judging run (grows)" in err
    assert "stage 1" not in out and not Path("runs").exists()
    commit(package)
    status, out, err = cli(*RECORD, "--until-decided")
    assert status == 0, out + err
    # 20, 21 and 22 are above 18 by 3 ± 5.2, and five seeds by 4 ± 3.1; all are far above 10.
    assert "0 of 2 reproduced, 1 contradicted, 1 undecided after 3 seeds: going on to 5 seeds" in out
    kept = json.loads((package / "results" / "grows.json").read_text())
    assert kept["seeds"] == [20, 21, 22, 23, 24] and kept["commit"] == fixed
    assert [claim["verdict"] for claim in kept["claims"]] == ["reproduced", "contradicted"]
    assert kept["counts"] == {"reproduced": 1, "contradicted": 1}
    table = (package / "README.md").read_text()
    assert "Of 2 claims 1 are reproduced, 1 are contradicted." in table
    assert "| Seeds are high. | [grows](grows.yaml) | reproduced | 22 | " in table
    assert (package / "results" / "grows.svg").is_file() and "[Picture](results/grows.svg)" in table
    assert cli("recipes", "grows", "--table")[0] == 0 and (package / "README.md").read_text() == table
    entry = json.loads((package / "results" / "judged.jsonl").read_text())
    assert entry["claims"] == {"high": "fact.fact: above 18", "low": "fact.fact: below 10"}
    assert entry["seeds"] == [20, 39] and entry["commit"] == fixed

    # Without --record, the same seeds are run, and nothing is written beside the recipe.
    before = git(package, "status", "--porcelain")
    assert "seeds 20, 21, 22 in" in cli("reproduce", "grows", "--laptop")[1]
    assert git(package, "status", "--porcelain") == before


def test_seeds_for_designing_are_never_recorded(package):
    commit(package)
    assert "seeds 100, 101, 102 in" in cli("reproduce", "grows", "--laptop")[1]
    cli(*RECORD)
    commit(package)
    for seeds, why in (
        ("100,101,102", "100, 101, 102 are for designing"),
        ("5,", "5 do not belong"),
        ("20,40", "40 do"),
    ):
        status, out, err = cli(*RECORD, "--seeds", seeds)
        assert status == 2 and why in err and "stage 1" not in out
    assert not (package / "results" / "grows.json").exists()


def test_an_experiment_that_was_changed_is_judged_on_seeds_that_nobody_has_seen(package):
    commit(package)
    for number, expected in enumerate(([20, 39], [40, 59], [60, 79], [80, 99])):
        recipe = load_recipe("grows")
        assert first_seed(recipe, recipe.laptop) == 100
        cli(*RECORD)
        commit(package)
        assert entries(recipe, recipe.laptop)[-1]["seeds"] == expected
        assert first_seed(recipe, recipe.laptop) == expected[0]
        (package / "grows.yaml").write_text(RECIPE.replace("of={seed}", f"of={number + 1}{{seed}}"))
        commit(package)
    status, _, err = cli(*RECORD)
    assert status == 2 and "was judged 4 times and has no fresh seeds left" in err


def test_going_on_ends_with_the_seeds(package):
    (package / "grows.yaml").write_text(RECIPE.replace("above: 18", "above: 103"))
    status, out, _ = cli("reproduce", "grows", "--laptop", "--until-decided", "--max-seeds", "8")
    assert status == 0 and "going on to 5 seeds" in out and "going on to 8 seeds" in out
    assert "going on to 12" not in out and "seeds would decide it" in " ".join(out.split())
    found = json.loads(Path("runs/recipes/grows-laptop/results.json").read_text())
    assert found["seeds"] == list(range(100, 108)) and found["counts"] == {"contradicted": 1, "undecided": 1}
    # Typed again, nothing is made again; with more seeds it goes on.
    again = cli("reproduce", "grows", "--laptop", "--until-decided", "--max-seeds", "8")[1]
    assert again.count("is already finished") == 3 + 5 + 8


def test_recipes_outside_a_package_are_not_recorded(package):
    shutil.copy(package / "grows.yaml", "mine.yaml")
    status, _, err = cli("reproduce", "mine.yaml", "--laptop", "--record")
    assert status == 2 and "results are recorded for the recipes of a package" in err


def test_a_damaged_log_is_told(package):
    commit(package)
    (package / "results").mkdir()
    (package / "results" / "judged.jsonl").write_text('{"recipe": "grows", ')
    status, _, err = cli("reproduce", "grows", "--laptop")
    assert status == 2 and "judged.jsonl is damaged" in err


# -- sizes and all recipes -----------------------------------------------------------------------------------------


def test_without_a_size_the_sizes_are_named_and_the_papers_is_asked_for(package):
    status, out, err = cli("reproduce", "grows")
    assert status == 2 and "--laptop" in err and "about 1 minutes" in err and "--full" in err and "stage 1" not in out
    status, out, err = cli("reproduce", "grows", "--full")
    assert status == 2 and "is not started without being asked: grows (hardware: none)" in err
    status, out, _ = cli("reproduce", "grows", "--full", "--yes")
    assert status == 0 and Path("runs/recipes/grows-full/results.json").is_file()
    status, _, err = cli("reproduce", "grows", "--small")
    assert status == 2 and "has no small variant" in err and "It has: --laptop, --full" in err
    status, _, err = cli("reproduce", "grows", "--small", "--laptop")
    assert status == 2 and "two sizes" in err
    for arguments in ((), ("grows", "--all", "--laptop"), ("--all",)):
        status, _, err = cli("reproduce", *arguments)
        assert status == 2 and "--all" in err


def test_all_recipes_run_one_after_the_other_and_go_on(package, monkeypatch):
    """One that fails stops no other; what was recorded is not run again, also where its runs are gone."""
    from zoo.recipes import find

    monkeypatch.setattr(find.registry, "recipe_packages", lambda own=find.registry.recipe_packages: [
        entry for entry in own() if entry.package == "zoo-words"
    ])  # fmt: skip
    (package / "fails.yaml").write_text(RECIPE.replace("number(of={seed})", "drawn(samples=0)").replace(
        "stages: {fact: {evals: {fact:", "stages: {fact: {start: world:gold, evals: {fact:"))  # fmt: skip
    commit(package)
    every = ("reproduce", "--all", "--laptop", "--record", "--until-decided")
    status, _, err = cli(*every)
    assert status == 2 and "(fails, grows)" in " ".join(err.split())
    commit(package)
    status, out, _ = cli(*every)
    assert status == 1 and "2 of 2 recipes are to be run, about 2 minutes" in out
    assert "there is nothing to draw" in out and "1 reproduced, 1 contradicted" in out
    shutil.rmtree("runs")
    status, out, _ = cli(*every)
    assert "1 of 2 recipes are to be run" in out and "stage 1 of 3: fact, seed 20 (evaluate)" in out
    assert "1 of 2 reproduced, 1 contradicted" in " ".join(out.split())
    assert not Path("runs/recipes/grows-laptop").exists()
    kept = json.loads((package / "results" / "grows.json").read_text(encoding="utf-8"))
    kept |= {"cpu_minutes": 1234.5, "minutes": 2345.4}
    (package / "results" / "grows.json").write_text(json.dumps(kept), encoding="utf-8")
    assert "; 1,234 CPU minutes in all, 2,345 minutes on the clock." in " ".join(cli(*every)[1].split())
    plan = cli(*every, "--dry-run")[1]
    assert "grows: 3 seeds, recorded: 1 of 2 reproduced, 1 contradicted" in plan
