"""The bundled recipes: each can be read and would be allowed to run, and tells where its numbers come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from zoo.recipes.check import check_recipe
from zoo.recipes.load import load_recipe
from zoo.recipes.runner import Reproduction

FOLDER = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PROMISED = """
    ipo dpo kto simpo orpo zephyr-paper zephyr-handbook tulu3 instructgpt deepseekmath-grpo deepseek-r1-zero
    gao-overoptimization coste-ensembles math-shepherd lima alpaca flan vicuna openassistant lora safety-tuned
    constitutional-ai rlaif mid-training calibration diversity length-controlled-alpacaeval
""".split()
SOURCED = (
    "lr beta tau gamma epochs max_steps batch_size schedule warmup max_length kl_coef rollout_epochs "
    "answers_per_prompt temperature max_new_tokens"
).split()
"""Options whose line has to say where the value is from, at full scale; one that nobody reported says so, or "ours"."""


def test_every_promised_recipe_is_there():
    assert set(PROMISED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_recipe_would_be_allowed_to_run(name):
    recipe = check_recipe(load_recipe(FOLDER / f"{name}.yaml"))
    assert recipe.full.stages
    assert recipe.full.claims, "A recipe without a claim is a configuration."


@pytest.mark.parametrize("name", NAMES)
def test_each_claim_says_where_in_the_paper_it_stands(name):
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    for variant in (recipe.full, recipe.laptop):
        for claim in variant.claims if variant else ():
            assert claim.where and claim.says.endswith((".", "?")) and len(claim.says) < 250, claim.says


@pytest.mark.parametrize("name", NAMES)
def test_what_was_not_reproduced_is_explained(name):
    kept = FOLDER / "results" / f"{name}.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["verdict"] != "reproduced":
        conditions = load_recipe(FOLDER / f"{name}.yaml").laptop.conditions
        assert len(conditions.findings) > 200, "laptop.findings: what came out, why, and what follows from it"


@pytest.mark.parametrize("name", NAMES)
def test_a_full_scale_has_what_the_paper_leaves_open(name):
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert {"deviations", "not_reported", "notes", "hardware", "about"} <= set(content)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_that_decides_the_full_scale_names_its_source(name):
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\nlaptop:")[0].splitlines()
    number = re.compile(rf"\s+({'|'.join(SOURCED)}): +\S+(?P<rest>.*)")
    assert [line for line in lines if (found := number.fullmatch(line)) and "#" not in found["rest"]] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_full_scale_can_be_planned_without_network_and_without_its_data(name, tmp_path):
    recipe = check_recipe(load_recipe(FOLDER / f"{name}.yaml"), laptop=False)
    plan = Reproduction(recipe, False, Console(quiet=True), out=str(tmp_path)).plan()
    assert {stage["name"] for stage in plan["stages"]} == set(recipe.full.stages)
    assert not any(stage["finished"] for stage in plan["stages"])
