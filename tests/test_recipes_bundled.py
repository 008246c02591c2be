"""The bundled recipes: each can be read and would be allowed to run, and tells where its numbers come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from each import each

from zoo.recipes.check import check_recipe
from zoo.recipes.load import load_recipe
from zoo.recipes.runner import Reproduction
from zoo.terminal import Console

FOLDER = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PROMISED = """
    ipo dpo kto simpo orpo zephyr-paper zephyr-handbook tulu3 instructgpt deepseekmath-grpo deepseek-r1-zero
    gao-overoptimization coste-ensembles math-shepherd lima alpaca flan vicuna openassistant lora safety-tuned
    constitutional-ai rlaif mid-training calibration diversity length-controlled-alpacaeval
    on-policy-distillation sycophancy verbosity hallucination model-soups continual-rm loss-spikes best-of-n
""".split()
SOURCED = (
    "lr beta tau gamma epochs max_steps batch_size schedule warmup max_length kl_coef rollout_epochs "
    "answers_per_prompt temperature max_new_tokens"
).split()
"""Options whose line has to say where the value is from, at full scale; one that nobody reported says so, or "ours"."""


def test_every_promised_recipe_is_there():
    assert set(PROMISED) <= set(NAMES)


def test_a_bundled_recipe_would_be_allowed_to_run():
    def check(name):
        recipe = check_recipe(load_recipe(FOLDER / f"{name}.yaml"))
        assert recipe.full.stages
        assert recipe.full.claims, "A recipe without a claim is a configuration."

    each(NAMES, check)


def test_each_claim_says_where_in_the_paper_it_stands():
    def check(name):
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        for variant in (recipe.full, recipe.laptop):
            for claim in variant.claims if variant else ():
                assert claim.where and claim.says.endswith((".", "?")) and len(claim.says) < 250, claim.says

    each(NAMES, check)


def test_what_was_not_reproduced_is_explained():
    def check(name):
        kept = FOLDER / "results" / f"{name}.json"
        if not kept.is_file():
            return
        claims = json.loads(kept.read_text(encoding="utf-8"))["claims"]
        if any(claim["seeds"] and claim["verdict"] != "reproduced" for claim in claims):
            conditions = load_recipe(FOLDER / f"{name}.yaml").laptop.conditions
            assert len(conditions.findings) > 200, "laptop.findings: what came out, why, what follows from it"

    each(NAMES, check)


def test_a_full_scale_has_what_the_paper_leaves_open():
    wanted = {"deviations", "not_reported", "notes", "hardware", "about"}
    contents = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in NAMES}
    assert {name: wanted - set(content) for name, content in contents.items() if wanted - set(content)} == {}


def test_every_number_that_decides_the_full_scale_names_its_source():
    number = re.compile(rf"\s+({'|'.join(SOURCED)}): +\S+(?P<rest>.*)")
    texts = {name: (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\nlaptop:")[0] for name in NAMES}
    assert [
        f"{name}: {line}"
        for name, text in texts.items()
        for line in text.splitlines()
        if (found := number.fullmatch(line)) and "#" not in found["rest"]
    ] == []


def test_a_full_scale_can_be_planned_without_network_and_without_its_data(tmp_path):
    def check(name):
        recipe = check_recipe(load_recipe(FOLDER / f"{name}.yaml"), size="full")
        plan = Reproduction(recipe, "full", Console(quiet=True), out=str(tmp_path / name)).plan()
        assert {stage["name"] for stage in plan["stages"]} == set(recipe.full.stages)
        assert not any(stage["finished"] for stage in plan["stages"])

    each(NAMES, check)
