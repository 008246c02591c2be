"""The table of verdicts beside the bundled recipes is the one that the kept results make; keys tell what changed."""

import json
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.recipes.claims import stated
from zoo.recipes.keys import stage_key
from zoo.recipes.load import load_recipe
from zoo.recipes.registered import LOG, entries
from zoo.recipes.table import TABLE, cell, keeps_results, table_of, write_table

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))


def test_the_table_is_what_the_kept_results_make():
    assert (RECIPES / TABLE).read_text(encoding="utf-8") == table_of(RECIPES), "type: zoo recipes --table"


def test_every_claim_that_a_machine_without_a_gpu_tests_has_a_row():
    table = (RECIPES / TABLE).read_text(encoding="utf-8").partition("\n## ")[0]
    recipes = [(file, load_recipe(file)) for file in RECIPES.glob("*.yaml")]
    sizes = [
        (file, variant, suffix)
        for file, recipe in recipes
        for variant, suffix in ((recipe.laptop, ""), (recipe.small, ", small"))
        if variant is not None
    ]
    rows = [
        f"| {cell(claim.says)} | [{file.stem}]({file.name}){suffix} |"
        for file, variant, suffix in sizes
        for claim in variant.claims
        if claim.untested is None
    ]
    assert [row for row in rows if row not in table] == []
    assert f"Of {len(rows)} claims" in table and table.count("\n| ") == len(rows) + 1


def test_no_claim_is_ever_dropped():
    """The claims of the first judging by intervals, by their ids, and all that were judged since."""
    ids = {name: {claim.id for claim in load_recipe(RECIPES / f"{name}.yaml").laptop.claims} for name in NAMES}
    first = [line.split() for line in (Path(__file__).parent / "recipes" / "claims.txt").read_text().splitlines()]
    assert len(first) == 28 and sum(len(words) - 1 for words in first) == 110
    assert [f"{name} {claim}" for name, *claims in first for claim in claims if claim not in ids[name]] == []


def test_no_claim_is_changed_after_it_was_judged():
    log = RECIPES / "results" / LOG
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        entry = json.loads(line)
        variant = load_recipe(RECIPES / f"{entry['recipe']}.yaml").variant(entry["variant"])
        rules = {claim.id: stated(claim) for claim in variant.claims}
        assert {name: rules.get(name) for name in entry["claims"]} == entry["claims"], entry["recipe"]


def test_what_is_recorded_was_registered_before():
    for file in (RECIPES / "results").glob("*.json"):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if "digest" not in kept:
            continue
        recipe = load_recipe(RECIPES / f"{kept['recipe']}.yaml")
        entry = next(one for one in entries(recipe, recipe.variant(kept["variant"]))
                     if one["digest"] == kept["digest"])  # fmt: skip
        low, high = entry["seeds"]
        assert kept["commit"] == entry["commit"] and all(low <= seed <= high for seed in kept["seeds"])


def test_a_readme_that_somebody_wrote_is_left_alone(tmp_path):
    (tmp_path / TABLE).write_text("# Mine\n")
    with pytest.raises(ZooError, match="was not made by zoo"):
        write_table(tmp_path)
    assert not keeps_results(tmp_path) and (tmp_path / TABLE).read_text() == "# Mine\n"


def test_what_somebody_says_cannot_break_the_table():
    assert cell("a | b\nc") == "a \\| b c"


# -- keys --------------------------------------------------------------------------------------------------------


def key(made=None, **options):
    return stage_key({"lr": 0.1, **options}, made or {}, {})


def test_a_key_follows_the_options_but_not_their_order_nor_where_results_go():
    assert key(beta=1, name="a", out="here") == stage_key({"beta": 1, "lr": 0.1, "out": "there"}, {}, {})
    assert key(beta=1) != key(beta=2)


def test_another_stage_counts_by_its_key_and_not_by_its_path():
    assert key({"runs/x/sft": "k1"}, model="runs/x/sft") == key({"other/sft": "k1"}, model="other/sft")
    assert key({"runs/x/sft": "k1"}, model="runs/x/sft") != key({"runs/x/sft": "k2"}, model="runs/x/sft")
    # One path is the beginning of the other.
    made = {"runs/rm": "k1", "runs/rm-2": "k2"}
    assert key(made, reward="0.5*runs/rm + runs/rm-2") == key(
        {"a/rm": "k1", "a/rm-2": "k2"}, reward="0.5*a/rm + a/rm-2"
    )


def test_a_local_file_counts_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one")
    before = key(data="rows.jsonl")
    rows.touch()
    assert key(data="rows.jsonl") == before
    rows.write_text("two")
    assert key(data="rows.jsonl") != before


def test_what_plugins_bring_counts_by_its_code(tmp_path, monkeypatch):
    import importlib
    import sys

    from zoo.recipes.keys import _sources_digest

    monkeypatch.syspath_prepend(str(tmp_path))
    found = set()
    for number in (1, 1, 2):
        (tmp_path / "brought.py").write_text(f"def rows(split, kind):\n    return [{number}]\n")
        sys.modules.pop("brought", None)
        _sources_digest.cache_clear()
        importlib.invalidate_caches()
        source = importlib.import_module("brought").rows
        found.add(stage_key({"data": "brought:part"}, {}, {"brought": source}))
    assert len(found) == 2
    assert stage_key({"data": "brought-not"}, {}, {"brought": source}) == stage_key({"data": "brought-not"}, {}, {})
