"""`zoo reproduce`: a stranger's recipe is run and judged; killed whenever, it ends the same; nothing is made twice."""

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from packages import forget_modules, put_on_path
from test_resume import SignalAt, in_child, installed
from tiny_runs import cli

WORDS = Path(__file__).parent / "recipes" / "zoo-words"
LAPTOP = "runs/recipes/words-laptop"
COMMAND = ("reproduce", "words", "--laptop")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    """A working folder with the package of the recipe on the path of this process, and the model beside it."""
    folder = tmp_path_factory.mktemp("words")
    package = Path(shutil.copytree(WORDS, folder / "zoo-words"))
    shutil.copytree(tiny_folder, folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        put_on_path(package, patch)
        patch.chdir(folder)
        yield folder
    forget_modules(package)


@pytest.fixture(scope="module")
def made(place):
    """One whole reproduction: its folder, the exit status and what it printed."""
    status, out, err = cli(*COMMAND)
    assert status == 0, out + err
    return place / LAPTOP, out


def results(folder):
    """What a reproduction found, without what depends on the clock and the day."""
    found = json.loads((folder / "results.json").read_text())
    del found["made"]
    return found


def verdicts(folder):
    return [claim["verdict"] for claim in results(folder)["claims"]]


# -- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_recipe_of_a_strangers_package_is_listed_and_runs(made):
    folder, out = made
    assert "words" in [row["name"] for row in json.loads(cli("recipes", "--json")[1])]
    assert (folder / "seed-101" / "tuned-beta-0.5" / "model" / "config.json").is_file()
    assert "stage 12 of 12: fact, seed 101" in out and "words: 2 of 4 reproduced" in out
    assert "The tiny model is sure of its words" in out and "The tiny model is sure" in cli("recipes", "words")[1]


def test_the_stages_are_drawn_before_anything_runs(made):
    drawn = made[1].partition("stage 1 of 12")[0]
    for line in ("base: evaluate ← tiny", "labels: label ← words", "tuned(*): dpo × 2 ← sft, labels"):
        assert line in drawn
    assert "6 stages for each of the seeds 100, 101" in drawn


def test_each_claim_is_judged_with_the_values_of_its_seeds(made):
    found = results(made[0])
    kept = {
        (stage, seed): json.loads((made[0] / f"seed-{seed}" / stage / "evals.json").read_text())
        for stage in ("base", "sft") for seed in (100, 101)
    }  # fmt: skip
    rises = [
        kept["sft", seed]["likely"]["score"]["value"] - kept["base", seed]["likely"]["score"]["value"]
        for seed in (100, 101)
    ]
    assert found["claims"][0]["values"] == rises
    assert found["claims"][0]["mean"] == pytest.approx(sum(rises) / 2)
    assert verdicts(made[0]) == [
        "undecided", "reproduced", "contradicted", "reproduced", "not tested here",
    ]  # fmt: skip
    # One of the full scale beside them, which a laptop cannot test.
    assert [claim["verdict"] for claim in found["full_scale"]] == ["not tested here"]
    assert found["verdict"] == "2 of 4 reproduced, 1 contradicted, 1 undecided"


def test_seeds_differ_and_what_a_recipe_says_of_a_seed_is_kept(made):
    seeds = {seed: json.loads((made[0] / f"seed-{seed}/sft/summary.json").read_text()) for seed in (100, 101)}
    assert seeds[100]["after"]["val/loss"] != seeds[101]["after"]["val/loss"]
    labels = [(made[0] / f"seed-{seed}/labels/labelled.jsonl").read_bytes() for seed in (100, 101)]
    assert labels[0] == labels[1]


def test_the_claims_are_a_table_too(made):
    rows = list(csv.DictReader((made[0] / "claims.csv").open()))
    assert [row["verdict"] for row in rows] == [*verdicts(made[0]), "not tested here"]
    assert float(rows[1]["seed 101"]) == 0.75


def test_the_report_shows_claims_plots_samples_and_caveats_and_loads_nothing(made):
    page = (made[0] / "report.html").read_text()
    for text in (
        "Teaching makes the text likelier.", "Nothing is learned from this about anything else.",
        "The words are others.",
        "The tiny model is sure of its words", "zoo reproduce words --laptop",
        "tuned: likely", "Training with dpo", "Answers: drawn",
    ):  # fmt: skip
        assert text in page, text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert page.count("<svg") > 8


def test_nothing_is_recorded_unless_it_is_asked_for(made, place):
    assert not (place / "zoo-words" / "zoo_words" / "results").exists()


# -- again ---------------------------------------------------------------------------------------------------------


def test_nothing_that_is_finished_is_made_again(made):
    files = {file: file.stat().st_mtime_ns for file in made[0].glob("seed-*/*/*") if file.is_file()}
    before = results(made[0])
    status, out, _ = cli(*COMMAND)
    assert status == 0 and out.count("is already finished") == 12
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert results(made[0]) == before


def test_strict_tells_by_the_exit_status_what_is_not_reproduced(made):
    assert cli(*COMMAND, "--strict")[0] == 1


def test_what_changed_and_what_needs_it_is_made_again_and_the_former_is_set_aside(made, place):
    recipe = (WORDS / "zoo_words" / "words.yaml").read_text()
    (place / "words.yaml").write_text(recipe.replace("limit: 6", "limit: 5"))
    shutil.copytree(made[0], place / "changed" / "words-laptop")
    _, out, _ = cli("reproduce", "words.yaml", "--laptop", "--seeds", "100,", "--out", "changed")
    assert re.findall(r"of 6: (\S+), seed 100, is already finished", out) == ["base", "sft", "fact"]
    aside = sorted(folder.name for folder in (place / "changed/words-laptop/seed-100/replaced").iterdir())
    assert aside == ["labels-1", "tuned-beta-0.05-1", "tuned-beta-0.5-1"]
    assert not (place / "results").exists() and not (place / "README.md").exists()


def test_only_a_stage_and_what_it_needs(place):
    status, out, _ = cli(*COMMAND, "--only", "sft", "--seeds", "7,", "--out", "only")
    assert status == 0 and re.findall(r"stage \d of 1: (\S+),", out) == ["sft"]
    assert not (place / "only/words-laptop/results.json").exists()


def test_a_dry_run_tells_what_is_finished_and_where_options_come_from_and_makes_nothing(made, place):
    plan = json.loads(cli(*COMMAND, "--dry-run", "--json", "--seeds", "101,102")[1])
    assert [stage["finished"] for stage in plan["stages"]] == [True] * 6 + [False] * 6
    value, origin = plan["stages"][1]["options"]["lr"]
    line = (WORDS / "zoo_words" / "words.yaml").read_text().splitlines()[int(origin.rpartition(":")[2]) - 1]
    assert value == 0.002 and "words.yaml:" in origin and "lr: 2.0e-3" in line
    assert not (place / LAPTOP / "seed-102").exists()
    assert "lr: 0.002" in cli(*COMMAND, "--dry-run")[1]


# -- killed --------------------------------------------------------------------------------------------------------


def kill_at_rename(number):
    """Let this process die before the n-th file gets its final name."""
    rename, left = os.replace, [number]

    def counted(*args, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*args, **options)

    os.replace = counted


def kill_in_evaluation():
    """Let this process die in the middle of an evaluation that has drawn numbers."""
    import torch

    draw = torch.multinomial

    def last(*args, **options):
        draw(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    torch.multinomial = last


KILLS = [
    lambda: kill_at_rename(2),
    kill_in_evaluation,
    lambda: installed(SignalAt(3, signal.SIGKILL)),
    lambda: kill_at_rename(11),
    lambda: kill_at_rename(7),
    lambda: installed(SignalAt(1, signal.SIGKILL)),
    lambda: kill_at_rename(23),
    lambda: kill_at_rename(40),
]


@pytest.mark.long
def test_killed_again_and_again_it_ends_like_a_run_that_was_not(made, place):
    """Between stages, within a stage, within an evaluation, and while files are written."""
    for number, kill in enumerate(KILLS):

        def action(kill=kill):
            kill()
            status, out, err = cli(*COMMAND, "--out", "killed")
            print(out, err)
            raise SystemExit(status)

        output = place / f"killed-{number}.txt"
        assert in_child(action, output) == 128 + signal.SIGKILL, output.read_text()
    assert cli(*COMMAND, "--out", "killed")[0] == 0
    killed = place / "killed" / "words-laptop"
    whole, broken = results(made[0]), results(killed)
    assert broken == whole
    assert not list(killed.glob("seed-*/.tmp*"))
    for file in made[0].glob("seed-*/*/model/*.safetensors"):
        assert (killed / file.relative_to(made[0])).read_bytes() == file.read_bytes()
    assert not list(killed.glob("seed-*/replaced"))


@pytest.mark.long
def test_stages_at_the_same_time_give_the_same(made, place, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(place / "zoo-words"))
    status, out, err = cli(*COMMAND, "--out", "beside", "--workers", "2")
    assert status == 0, out + err
    assert "2 seeds on 2 processes of this machine" in out
    assert results(place / "beside/words-laptop") == results(made[0])
    assert "0 stages on" in cli(*COMMAND, "--out", "beside", "--workers", "2")[1]


# -- mistakes ------------------------------------------------------------------------------------------------------


def test_a_stage_that_fails_says_which_and_what_to_type_to_go_on(made, place):
    recipe = (WORDS / "zoo_words" / "words.yaml").read_text()
    (place / "bad.yaml").write_text(recipe.replace('"drawn(samples=32)"', '"drawn(samples=0)"'))
    status, out, err = cli("reproduce", "bad.yaml", "--laptop", "--seeds", "100,")
    assert status == 2
    assert "The stage base with seed 100 failed: there is nothing to draw" in err
    assert "Then continue with: zoo reproduce bad.yaml --laptop --seeds 100," in err
    assert "stage 2" not in out


def test_two_processes_do_not_make_the_same_folder(made, place):
    from zoo.runs import hold

    with hold(made[0], "", ""):
        status, _, err = cli(*COMMAND)
    assert status == 2 and "Another process is working in" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("wrods", "--laptop"), "Did you mean 'words'?"),
        ((*COMMAND[1:], "--only", "stf"), "Did you mean 'sft'?"),
        ((*COMMAND[1:], "--seeds", "two"), "--seeds two is neither a number of seeds"),
        ((*COMMAND[1:], "--seeds", "1,1"), "--seeds 1,1 has a seed twice"),
        ((*COMMAND[1:], "--seeds", "100"), "Write --seeds 100, (with a comma) for that one seed"),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_to_type(place, arguments, said):
    status, out, err = cli("reproduce", *arguments)
    assert status == 2 and said in err and "Traceback" not in err and "stage 1" not in out
