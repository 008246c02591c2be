"""Recipes: what their files may say, what is refused with file, line and the nearest name, and where they are found."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from each import each
from packages import forget_modules, put_on_path
from recipe_mistakes import GOOD, MISTAKES
from tiny_runs import cli

from zoo.cli.recipe_card import COMMENT
from zoo.errors import ZooError
from zoo.labelling.teaching import summary_of
from zoo.options.config import TrainConfig
from zoo.options.fields import options_of
from zoo.options.strict_yaml import read_with_lines
from zoo.recipes.check import check_recipe
from zoo.recipes.form import json_schema
from zoo.recipes.load import all_recipes, load_recipe
from zoo.recipes.produced import LABELLED, produced
from zoo.recipes.schema import Stage, canonical, references

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def written(text, name="mine.yaml"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def line_of(text, part):
    """The number of the one line that holds `part`."""
    (found,) = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    return found


def refusal(text):
    """What is said of a recipe that cannot run, whether on reading or on checking."""
    with pytest.raises(ZooError) as caught:
        check_recipe(load_recipe(written(text)))
    return str(caught.value)


# -- what a good recipe becomes ----------------------------------------------------------------------------------


def test_a_recipe_holds_what_its_file_says(place):
    recipe = load_recipe(written(GOOD))
    assert (recipe.name, recipe.title, recipe.paper.text, recipe.package) == (
        "mine",
        "A small one",
        "arXiv:2402.01306",
        "",
    )
    assert list(recipe.full.stages) == ["sft", "labels", "rm", "kto(beta=0.05)", "kto(beta=0.1)", "ppo"]
    assert recipe.full.stages["kto(beta=0.1)"].training_options == {
        "model": "stage:sft", "epochs": 1, "limit": 64, "data": "starter", "lr": 5e-4, "beta": 0.1,
    }  # fmt: skip
    assert [claim.rule for claim in recipe.full.claims] == ["by", "orders", "untested"]
    assert recipe.where(recipe.full, "claims", 0).endswith(f":{line_of(GOOD, 'says: It rises')}")
    conditions = recipe.laptop.conditions
    assert (recipe.laptop.seeds, conditions.minutes, conditions.caveat) == (3, 2, "tiny")
    assert recipe.full.algorithms == ("sft", "rm", "kto", "ppo")


def test_a_good_recipe_passes_and_loses_only_evaluations_for_other_sorts_of_models(place):
    checked = check_recipe(load_recipe(written(GOOD)))
    assert checked.full.stages["rm"].evals == {"accuracy": "pair_accuracy"}
    assert checked.full.stages["sft"].evals == checked.full.stages["ppo"].evals == {"hits": "instructions"}
    assert checked.full.stages["labels"].evals == {}


def test_what_a_stage_needs_is_read_from_all_its_texts(place):
    stages = load_recipe(written(GOOD)).full.stages
    needs = {name: stage.needs for name, stage in stages.items()}
    assert needs == {
        "sft": (), "labels": ("sft",), "rm": ("sft", "labels"), "kto(beta=0.05)": ("sft",), "kto(beta=0.1)": ("sft",),
        "ppo": ("kto(beta=0.1)", "rm"),
    }  # fmt: skip
    assert references(["mean(stage:a, stage:b-2) - 0.5*stage:c(x=1)", {"k": "stage:a"}]) == ("a", "b-2", "c(x=1)")


def test_a_stage_is_filled_in_for_a_seed_and_with_what_others_made():
    stage = Stage(
        name="one", algo="x", start="world(seed={seed})", evals={"a": "gold(seed={seed})"},
        options={"reward": "stage:rm(n=1) - stage:rm(n=2)", "names": ["{seed}"], "lr": 1.0},
    )  # fmt: skip
    filled = stage.at(7, {"rm(n=1)": "runs/a", "rm(n=2)": "runs/b"})
    assert filled.training_options == {
        "model": "world(seed=7)", "seed": 7, "reward": "runs/a - runs/b", "names": ["7"], "lr": 1.0,
    }  # fmt: skip
    assert filled.evals == {"a": "gold(seed=7)"}
    assert stage.at(7).options["reward"] == "stage:rm(n=1) - stage:rm(n=2)"
    assert Stage(name="one", options={"seed": 42}).at(7).options["seed"] == 42
    with pytest.raises(KeyError):
        stage.at(7, {})


def test_a_sweep_has_a_stage_for_each_point_and_named_values_go_by_their_names(place):
    text = (
        GOOD.replace(
            "sweep: {beta: [0.05, 0.10]}",
            'sweep: {beta: [5.0e-2, 1.0], data: {all: starter, few: "starter@heldout"}}',
        )
        .replace("kto(beta=0.1)", "kto(beta=0.05, data=few)")
        .replace("    data: starter\n    lr: 5.0e-4", "    lr: 5.0e-4")
    )
    recipe = load_recipe(written(text))
    swept = {name: stage for name, stage in recipe.full.stages.items() if stage.sweep_of == "kto"}
    assert list(swept) == [
        "kto(beta=0.05,data=all)",
        "kto(beta=0.05,data=few)",
        "kto(beta=1,data=all)",
        "kto(beta=1,data=few)",
    ]
    few = swept["kto(beta=1,data=few)"]
    assert (few.options["beta"], few.options["data"], few.folder) == (1.0, "starter@heldout", "kto-beta-1-data-few")
    assert recipe.full.stages["ppo"].needs[0] == "kto(beta=0.05,data=few)"
    assert recipe.full.matching("kto(*)") == list(swept)
    assert recipe.full.matching("kto(beta=1.0, data=few)") == ["kto(beta=1,data=few)"]
    assert recipe.full.matching("kto") == []


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a", "a"),
        ("a(*)", "a(*)"),
        ("a(b=0.10, c=x)", "a(b=0.1,c=x)"),
        ("a(lr=5.0e-7)", "a(lr=5e-07)"),
        ("a(n=1e3)", "a(n=1000)"),
    ],
)
def test_one_stage_has_one_name_however_its_numbers_are_written(typed, kept):
    assert canonical(typed) == kept


def test_a_recipe_extends_another_key_by_key_and_mistakes_name_the_file_they_stand_in(place):
    written(GOOD, "base.yaml")
    own = "extends: base\ntitle: Another\nstages:\n  sft:\n    lr: 2e-3\n"
    recipe = load_recipe(written(own))
    assert recipe.title == "Another" and recipe.hardware == "not reported"
    assert recipe.full.stages["sft"].options == {"epochs": 1, "limit": 64, "data": "starter", "lr": 2e-3}
    assert recipe.where(recipe.full, "stages", "sft", "lr") == "mine.yaml:5"
    assert recipe.where(recipe.full, "stages", "kto", "lr") == f"base.yaml:{line_of(GOOD, '5.0e-4')}"
    written(GOOD.replace("5.0e-4", "high"), "base.yaml")
    assert f"base.yaml:{line_of(GOOD, '5.0e-4')}: Option 'lr'" in refusal(own)


def test_findings_are_those_of_one_recipe_and_not_of_another_that_extends_it(place):
    found = GOOD.replace("  caveat: tiny\n", "  caveat: tiny\n  findings: It fell.\n")
    assert load_recipe(written(found, "base.yaml")).laptop.conditions.findings == "It fell."
    own = "extends: base\ntitle: Another\n"
    heir = load_recipe(written(own)).laptop.conditions
    assert (heir.findings, heir.caveat) == ("", "tiny")
    assert load_recipe(written(f"{own}laptop:\n  findings: It rose.\n")).laptop.conditions.findings == "It rose."


def test_extends_goes_one_level(place):
    written(GOOD, "base.yaml")
    written("extends: base\n", "middle.yaml")
    assert "mine.yaml:2: 'middle' extends 'base' itself" in refusal("title: x\nextends: middle\n")
    assert "mine.yaml:1: No recipe is called 'bsae'" in refusal("extends: bsae\n")


def test_merged_mappings_share_options_between_stages(place):
    text = GOOD.replace(
        "  rm:\n",
        "  more: &more {algo: kto, start: tiny, data: starter}\n  other:\n    <<: *more\n    lr: 0.1\n  rm:\n",
    )
    stages = load_recipe(written(text)).full.stages
    assert stages["other"].algo == "kto" and stages["other"].options["lr"] == 0.1


def test_lines_are_those_of_keys_and_of_the_items_of_lists(place):
    Path("x.yaml").write_text("a:\n  b: 1\n  c:\n    - one\n    - {d: 2}\n")
    content, lines = read_with_lines("x.yaml")
    assert content == {"a": {"b": 1, "c": ["one", {"d": 2}]}}
    assert lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 4, ("a", "c", 1): 5, ("a", "c", 1, "d"): 5}


def test_aliases_of_aliases_are_refused_in_no_time(place):
    Path("x.yaml").write_text(
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    )
    with pytest.raises(ZooError, match="more than 100,000 values"):
        read_with_lines("x.yaml")


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("algo: ppo", "algo: ./evil.py:Mine", "./evil.py:Mine"),
        ("data: starter\n    reward", 'data: starter\n    environment: "./evil.py:Shop"\n    reward', "./evil.py:Shop"),
        ('"0.5*stage:rm + instructions"', '"0.5*stage:rm + evil:worth"', "evil:worth"),
        ('"0.5*stage:rm + instructions"', "evil.py", "evil.py"),
        ("lr: 5.0e-4", "optimizer: ./evil.py:Own", "./evil.py:Own"),
        ("hits: instructions", "hits: episodes(environment=./evil.py:Shop)", "./evil.py:Shop"),
        ("hits: instructions", "hits: best_of_n(data=starter, reward=evil:worth)", "evil:worth"),
    ],
)
def test_the_code_that_a_recipe_names_is_not_run(place, old, new, named):
    Path("evil.py").write_text("open('it ran', 'w')\n")
    assert old in GOOD
    said = refusal(GOOD.replace(old, new))
    assert f"'{named}' is Python code; a recipe runs none that is not installed." in said
    assert not Path("it ran").exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_file_line_and_what_was_meant(mistake, place):
    old, new, at, said = MISTAKES[mistake]
    assert GOOD.count(old) == 1, "the change must be in one place"
    text = GOOD.replace(old, new)
    shown = refusal(text)
    if said is None:
        assert re.match(r"mine\.yaml(:\d+)?: ", shown), shown
        return
    lines = [line for line in shown.splitlines() if line.startswith(f"mine.yaml:{line_of(text, at)}: ")]
    assert any(said in line for line in lines), shown


@pytest.mark.parametrize("source", ["world:glod", "world:gold(rowz=8)", "world:gold(rows=8", "starter:glod"])
def test_data_that_cannot_be_read_is_told_with_its_own_line(place, source):
    text = GOOD.replace("    data: starter\n    lr: 5.0e-4", f'    lr: 5.0e-4\n    data: "{source}"')
    at = line_of(text, source)
    assert f"mine.yaml:{at}: " in refusal(text)
    text = GOOD.replace("limit: 64}", f'limit: 64, data: "{source}"}}').replace("data: starter\n    lr: 5", "lr: 5")
    assert f"mine.yaml:{line_of(text, source)}: " in refusal(text)


def test_a_mistake_in_a_sweep_that_everything_follows_is_found_too(place):
    text = GOOD.replace("beta", "bata")
    at = line_of(text, "sweep: {bata")
    assert f"mine.yaml:{at}: 'bata' is not an option of the algorithm kto. Did you mean 'beta'?" in refusal(text)
    text = GOOD.replace("sweep", "swep").replace("kto(beta=0.1)", "kto").replace("kto(*)", "kto")
    at = line_of(text, "swep: {beta")
    assert f"mine.yaml:{at}: 'swep' is not an option of the algorithm kto. Did you mean 'sweep'?" in refusal(text)


def test_labels_of_a_judge_and_of_a_teacher_have_metrics_of_their_own():
    judged, taught = (Stage(name="labels", label={"data": "starter", who: "tiny"}) for who in ("judge", "teacher"))
    assert [produced(judged, None, {}).lacks(metric) for metric in ("pairs", "tokens")] == [False, True]
    assert [produced(taught, None, {}).lacks(metric) for metric in ("pairs", "tokens")] == [True, False]
    assert set(LABELLED["demonstration"]) == set(summary_of([], Counter())) - {"left_out"}


def test_every_stage_has_a_folder_of_its_own(place):
    text = GOOD.replace("[0.05, 0.10]", "[1, -1]").replace("kto(beta=0.1)", "kto(beta=-1)")
    folders = [stage.folder for stage in load_recipe(written(text)).full.stages.values()]
    assert folders[3:5] == ["kto-beta-1", "kto-beta--1"] and len(set(folders)) == 6
    text = text.replace("  ppo:\n", "  kto-beta-1:\n")
    assert "mine.yaml:25: 'kto-beta-1' and 'kto(beta=1)' would share the folder kto-beta-1: rename one." in refusal(
        text
    )


def test_all_mistakes_are_told_at_once(place):
    shown = refusal(
        GOOD.replace("5.0e-4", "often").replace("sft.val/loss", "sft.val/lss").replace("sft.hits\n", "sft.hist\n")
    )
    assert [line.split(": ")[0] for line in shown.splitlines()[:-1]] == [
        f"mine.yaml:{line_of(GOOD, part)}" for part in ("5.0e-4", "baseline: sft.hits", "sft.val/loss")
    ]


def test_a_repeated_mistake_of_a_sweep_is_told_once(place):
    shown = refusal(GOOD.replace("    lr: 5.0e-4", "    bta: 5.0e-4"))
    assert shown.count("'bta'") == 1


def test_a_laptop_may_claim_a_number_that_holds_at_any_scale(place):
    text = GOOD.replace("below: 9,", "paper: 9, within: 1, exact: true,")
    assert check_recipe(load_recipe(written(text))).laptop.claims[0].exact


def test_the_other_variant_of_a_recipe_may_need_what_is_not_installed(place):
    text = GOOD.replace("hits: instructions\n", "hits: of_an_extra\n")
    assert check_recipe(load_recipe(written(text)), "laptop").laptop.stages
    with pytest.raises(ZooError, match="of_an_extra"):
        check_recipe(load_recipe("mine.yaml"), "full")


def test_files_that_are_still_to_be_made_pass_where_that_is_said(place):
    text = GOOD.replace("    data: starter\n    lr: 5.0e-4", "    data: later.jsonl\n    lr: 5.0e-4")
    recipe = load_recipe(written(text))
    assert check_recipe(recipe, absent_files=True).full.stages
    with pytest.raises(ZooError, match="later.jsonl"):
        check_recipe(recipe)


def test_nothing_in_a_recipe_is_run_or_trusted(place):
    assert "not valid YAML" in refusal(GOOD + "notes: !!python/object/apply:os.getcwd []\n")
    assert "can only be given on the command line" in refusal(GOOD.replace("{epochs: 1,", "{trust_remote_code: true,"))


# -- where recipes are found -------------------------------------------------------------------------------------


@pytest.fixture
def stranger(place, monkeypatch):
    """A package of somebody else, on the path of this process, with a good recipe and a broken one."""
    folder = place / "package"
    (folder / "their_recipes").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "theirs"\nversion = "2.1"\n[project.entry-points."zoo.recipes"]\ntheirs = "their_recipes"\n'
    )
    (folder / "their_recipes" / "__init__.py").write_text("raise RuntimeError('listing imports nothing')\n")
    (folder / "their_recipes" / "theirs.yaml").write_text(GOOD)
    (folder / "their_recipes" / "broken.yaml").write_text("title: [\n")
    put_on_path(folder, monkeypatch)
    yield folder / "their_recipes"
    forget_modules(folder)


def test_a_recipe_of_a_strangers_package_is_listed_and_found_by_name(stranger):
    listed = {entry.name: entry for entry in all_recipes()}
    theirs = listed["theirs"]
    assert (theirs.package, theirs.version, theirs.title, theirs.minutes) == ("theirs", "2.1", "A small one", 2)
    assert theirs.algorithms == ("sft", "rm", "kto", "ppo") and theirs.verdict == ""
    assert load_recipe("theirs").package == load_recipe("theirs@theirs").package == "theirs"
    assert "broken.yaml:2 is not valid YAML" in listed["broken"].error
    assert "ipo" in listed


def test_the_last_verdict_stands_in_the_list(stranger):
    (stranger / "results").mkdir()
    digest = load_recipe("theirs").laptop.digest
    kept = {"verdict": "0 of 1 reproduced, 1 contradicted", "date": "2030-01-02", "digest": digest}
    (stranger / "results" / "theirs.json").write_text(json.dumps(kept))
    assert "0 of 1 claim 2030-01-02" in cli("recipes")[1]
    assert "0 of 1 reproduced, 1 contradicted 2030-01-02" in cli("recipes", "theirs")[1]


def test_a_result_of_an_experiment_that_was_changed_is_stale(stranger):
    (stranger / "results").mkdir()
    kept = {"verdict": "1 of 1 reproduced", "date": "2030-01-02", "digest": load_recipe("theirs").laptop.digest}
    (stranger / "results" / "theirs.json").write_text(json.dumps(kept))
    file = stranger / "theirs.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("caveat: tiny", "caveat: very tiny").replace("says: Loss falls", "says: It falls"))
    assert "1 of 1 reproduced" in cli("recipes", "theirs")[1]
    file.write_text(text.replace("below: 9,", "below: 8,"))
    assert "stale" in cli("recipes", "theirs")[1]
    listed = {row["name"]: row for row in json.loads(cli("recipes", "--json")[1])}
    assert listed["theirs"]["stale"] is True


def test_a_name_of_two_packages_is_told_apart_by_the_package(stranger):
    (stranger / "ipo.yaml").write_text(GOOD)
    with pytest.raises(ZooError, match="Several packages have a recipe called 'ipo'.*\n.*ipo@theirs"):
        load_recipe("ipo")
    assert load_recipe("ipo@theirs").title == "A small one"


def test_a_package_that_is_not_there_breaks_only_itself(stranger, monkeypatch):
    for file in stranger.iterdir():
        file.unlink()
    stranger.rmdir()
    listed = {entry.name: entry for entry in all_recipes()}
    assert "their_recipes" in listed["theirs"].error and "ipo" in listed


def test_a_misspelt_recipe_is_answered_with_the_nearest(place):
    status, _, shown = cli("recipes", "ipoo")
    assert status == 2 and "No recipe is called 'ipoo'. Did you mean 'ipo'?" in shown
    status, _, shown = cli("recipes", "missing.yaml")
    assert status == 2 and "There is no recipe at missing.yaml" in shown


def test_bundled_recipes_can_be_read():
    def check(entry):
        recipe = load_recipe(entry.path)
        assert (recipe.title, recipe.paper.text) == (entry.title, entry.paper)

    each(all_recipes(), check, name=lambda entry: entry.name)


def test_listing_imports_no_plugin_no_schema_and_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['zoo', 'recipes']\nfrom zoo.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "found = [name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'zoo_plugins',"
        " 'zoo_recipes') or name in ('zoo.recipes.form', 'zoo.recipes.schema', 'zoo.data.load')]\nprint('heavy', found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy []\n")
    assert "ipo" in done.stdout


def test_reading_a_recipe_loads_no_torch_and_no_plugin():
    code = (
        "import sys\nfrom zoo.recipes.load import load_recipe\nload_recipe('ipo')\n"
        "print([name for name in ('torch', 'transformers', 'zoo_plugins') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


# -- the command -------------------------------------------------------------------------------------------------


def test_the_list_as_json_has_what_the_table_has(stranger):
    (row,) = [row for row in json.loads(cli("recipes", "--json")[1]) if row["name"] == "theirs"]
    assert row["paper"] == "arXiv:2402.01306" and row["minutes"] == 2 and row["path"].endswith("theirs.yaml")


def test_the_card_shows_options_with_the_source_of_each_number(place):
    shown = cli("recipes", written(GOOD))[1]
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "lr 0.001 Table 1" in lines and "beta each of 0.05, 0.1" in lines
    assert "Table 2: kto(beta=0.1).hits − sft.hits: above 0, by 0.1 or more" in lines
    assert "section 5: not tested, it needs people" in lines
    every = lines.index("every stage")
    assert "limit 64" in lines[every : every + 4] and lines.count("limit 64") == 1
    assert "zoo reproduce mine.yaml --laptop" in lines


def test_a_difference_is_shown_as_one(place):
    shown = cli("recipes", written(GOOD.replace("below: 9,", "baseline: sft.loss, below: 9,")))[1]
    assert "nowhere: sft.val/loss − sft.loss: below 9" in shown


@pytest.mark.parametrize(
    ("line", "comment"),
    [
        ("lr: 1e-3   # Table 1", "Table 1"),
        ("lr: 1e-3", None),
        ('reward: "a # b"   # here', "here"),
        ('reward: "a # b"', None),
        ("name: it's one  # the paper's", "the paper's"),
        ("url: https://x/#part", None),
        ("lr: 1  # a # b", "a # b"),
    ],
)
def test_a_comment_is_what_stands_behind_a_value(line, comment):
    found = COMMENT.match(line)
    assert (found and found[1]) == comment


def test_a_recipe_is_copied_once_and_the_copy_is_read(place):
    status, shown, _ = cli("recipes", "ipo", "--copy")
    assert status == 0 and "zoo reproduce ./ipo.yaml" in shown
    assert load_recipe("ipo.yaml").title == load_recipe("ipo").title
    status, _, shown = cli("recipes", "ipo", "--copy")
    assert status == 2 and "ipo.yaml already exists" in shown
    assert cli("recipes", "ipo", "mine.yaml", "--copy")[0] == 0 and Path("mine.yaml").is_file()
    assert "does not exist" in cli("recipes", "ipo", "--copy", "no/where.yaml")[2]
    assert "zoo recipes ipo --copy other.yaml" in cli("recipes", "ipo", "other.yaml")[2]


def test_the_json_schema_knows_the_keys_and_the_core_options(place):
    schema = json.loads(cli("recipes", "--schema")[1])
    assert schema == json.loads(json.dumps(json_schema()))
    assert set(schema["required"]) == {"title", "paper", "hardware", "stages"}
    stage = schema["$defs"]["StageForm"]["properties"]
    assert {"algo", "start", "sweep", "evals", "lr", "reward"} <= set(stage) and "model" not in stage
    assert {option.name for option in options_of(TrainConfig)} - set(stage) == {"model"}
    assert schema["additionalProperties"] is False and schema["$defs"]["StageForm"]["additionalProperties"] is True
    for name, form in schema["$defs"].items():
        for key, about in form["properties"].items():
            assert name != "Claim" or about.get("description") or key == "at", (name, key)


# -- one stage ---------------------------------------------------------------------------------------------------

TINY = """\
title: t
paper: {url: here}
hardware: one
stages:
  sft: {algo: sft, start: tiny, data: starter, precision: 32-true, limit: 8, max_steps: 1, score: none, lr: 1e-3}
  start: {start: stage:sft, evals: {hits: instructions}}
  dpo: {algo: dpo, start: stage:start, data: starter, precision: 32-true, limit: 8, max_steps: 1, beta: 0.3}
"""


def test_a_stage_is_trained_with_its_options_and_those_by_hand_outrank_them(place, tiny_folder):
    (place / "tiny").symlink_to(tiny_folder)
    status, shown, error = cli("train", "--recipe", written(TINY), "--stage", "sft", "--lr", "0.01", "--name", "one")
    assert status == 0, error
    config = read_with_lines("runs/one/run.yaml")[0]
    assert (config["algo"], config["lr"], config["limit"], config["seed"], config["model"]) == (
        "sft",
        0.01,
        8,
        0,
        "tiny",
    )
    shown = cli("train", "--recipe", "mine.yaml", "--stage", "dpo", "--model", "tiny", "--seed", "3", "--dry-run")[1]
    rows = {line.split()[0]: line.split() for line in shown.split("\n\n")[0].splitlines()}
    assert rows["beta"][1:] == ["0.3", "recipe", "mine.yaml"] and rows["algo"][1:] == ["dpo", "recipe", "mine.yaml"]
    assert rows["model"][1:3] == ["tiny", "command"] and rows["seed"][1:3] == ["3", "command"]


def test_a_stage_that_needs_another_takes_its_finished_run_or_says_how_to_make_it(place, tiny_folder):
    (place / "tiny").symlink_to(tiny_folder)
    status, _, shown = cli("train", "--recipe", written(TINY), "--stage", "dpo", "--dry-run")
    assert status == 2 and "needs its stage start, which is not finished" in shown
    assert "zoo reproduce mine.yaml --full --yes --only 'start' --seeds 0," in shown
    assert "Or give --model yourself." in shown
    place = ("--out", "runs/recipes/mine-full/seed-0", "--name", "sft")
    done = cli("train", "--recipe", "mine.yaml", "--stage", "sft", *place)
    assert done[0] == 0, done
    shown = cli("train", "--recipe", "mine.yaml", "--stage", "dpo", "--dry-run")[1]
    assert "runs/recipes/mine-full/seed-0/sft" in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "mine.yaml", "--stage", "dop"], "There is no stage 'dop'. Did you mean 'dpo'?"),
        (["--recipe", "mine.yaml"], "Which stage of the recipe mine?"),
        (["--recipe", "mine.yaml", "--stage", "start"], "trains nothing: it is only evaluated"),
        (["--recipe", "mine.yaml", "--stage", "sft", "--laptop"], "has no laptop variant"),
        (["--recipe", "mine.yaml", "--stage", "sft", "--algo", "dpo"], "--algo cannot be combined with --recipe"),
        (["--stage", "sft"], "Add --recipe NAME"),
        (["--laptop"], "Add --recipe NAME"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(flags, said, place):
    written(TINY)
    status, _, shown = cli("train", *flags)
    assert status == 2 and said in shown


# -- the page ----------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def page_recipe():
    return re.search(r"<!-- recipe -->\n```yaml\n(.*?)```", PAGE, re.S)[1]


def test_the_recipe_of_the_page_can_run(place):
    recipe = check_recipe(load_recipe(written(page_recipe())))
    assert list(recipe.full.stages) == ["sft", "kto(beta=0.05)", "kto(beta=0.1)"]
    assert list(recipe.laptop.stages) == ["start", "kto"]


def test_the_page_shows_what_is_said_of_three_misspelt_words(place):
    text = page_recipe()
    for right, wrong in (
        ("lr: 2.0e-5", "learning_rate: 2.0e-5"),
        ("lm_eval(", "lm_evla("),
        ("0.1).gsm8k", "0.1).gms8k"),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    shown = re.search(r"<!-- refused output -->\n```text\n(.*?)```", PAGE, re.S)[1]
    assert refusal(text) == shown.rstrip()


def test_the_page_describes_every_key():
    forms = json_schema()
    keys = {key for form in (forms, *forms["$defs"].values()) for key in form["properties"]}
    keys -= {option.name for option in options_of(TrainConfig)}
    assert not [key for key in keys if not re.search(rf"\b{key}\b", PAGE)]
