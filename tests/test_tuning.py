"""`zoo compare --sweep`: the best setting of each entrant is chosen on prompts of the training part, then compared."""

import json
from types import SimpleNamespace

import pytest
from tiny_runs import cli, preferences, write_rows

from zoo.comparison.entrants import read_settings
from zoo.comparison.tuning import chosen, read_sweeps, told
from zoo.errors import ZooError
from zoo.runs import Run


def settings(*sets):
    return read_settings("mild=dpo,sft", "0,1", None, list(sets), {})


# -- the settings --------------------------------------------------------------------------------------------------


def test_sweeps_of_an_entrant_are_combined_and_others_keep_their_one_setting():
    tried = read_sweeps(["mild.beta=0.1,1", "mild.lr=1e-4,1e-3,1e-2"], settings())
    assert [setting.label for setting in tried] == [
        *(f"mild@beta={beta},lr={lr}" for beta in ("0.1", "1") for lr in ("1e-4", "1e-3", "1e-2")), "sft",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["mild.beta=0.1"], "has no two values"), (["mild.beta=1,1"], "has no two values"),
        (["mlid.beta=0.1,1"], "Did you mean 'mild'"), (["mild.model=a,b"], "must be the same for all"),
        (["mild.seed=1,2"], "is set by the comparison"), (["mild.beta=1,2", "mild.beta=3,4"], "is set twice"),
    ],
)  # fmt: skip
def test_sweeps_that_cannot_be_are_refused(texts, said):
    with pytest.raises(ZooError, match=said):
        read_sweeps(texts, settings())
    with pytest.raises(ZooError, match="is set twice"):
        read_sweeps(["mild.beta=0.1,1"], settings("mild.beta=0.3"))


def results(**scores):
    algorithms = [
        {
            "label": label,
            "measures": {
                "x": {"mean": x},
                "trained_tokens": {"values": [5.0, 6.0]},
                "generated_tokens": {"values": [1.0, 2.0]},
            },
        }
        for label, x in scores.items()
    ]
    return {"runs": [{"intervals": {"x": [0.0, 1.0, 9]}}], "algorithms": algorithms}


def test_the_best_is_chosen_and_the_effort_is_told():
    tried = read_sweeps(["mild.beta=0.1,1,2"], settings())
    found = results(**{"mild@beta=0.1": 0.2, "mild@beta=1": 0.5, "sft": 0.9})
    one = chosen(found, tried, "x")
    assert one["entrants"]["mild"]["best"] == {"beta": "1"} and one["entrants"]["sft"]["best"] == {}
    assert [row["score"] for row in one["entrants"]["mild"]["settings"]] == [0.2, 0.5, None]
    assert one["entrants"]["mild"]["tokens"] == 28
    lines = told({**one, "seeds": [1000]})
    assert "  mild: 3 settings, 28 tokens, best beta 1" in lines
    assert "  sft: 1 setting, 14 tokens, best its defaults" in lines
    assert lines[-1].startswith("The effort was not equal")
    with pytest.raises(ZooError, match="No setting of sft finished"):
        chosen(results(**{"mild@beta=1": 0.5}), tried, "x")


# -- a comparison --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("tuning")
    rows = [{**row, "prompt": f"{row['prompt']} of {i}"} for i, row in enumerate(preferences(40, seed=3))]
    data, held = write_rows(folder / "rows.jsonl", rows[:32]), write_rows(folder / "held.jsonl", rows[32:])
    flags = ["--model", str(tiny_folder), "--data", data, "--eval-data", held, "--precision", "32-true", "--lr", "1e-2",
             "--batch-size", "4", "--answer-tokens", "6", "--score", "none", "--max-steps", "2"]  # fmt: skip
    return SimpleNamespace(folder=folder, flags=flags, held=held, rows=rows)


@pytest.fixture(scope="module")
def tuned(place):
    out = place.folder / "c"
    command = ["compare", "--algos", "dpo,sft", "--seeds", "2", "--sweep", "dpo.beta=0.1,5", "--sweep",
               "sft.lr=1e-3,1e-2", "--tune-by", "length(target=3)", "--out", str(out), *place.flags]  # fmt: skip
    status, shown, err = cli(*command, "--json")
    assert status == 0, shown + err
    return SimpleNamespace(out=out, command=command, found=json.loads(shown))


def test_the_best_settings_are_compared(tuned):
    outcome = json.loads((tuned.out / "tuning" / "tuning.json").read_text())
    assert tuned.found["tuning"] == outcome and outcome["seeds"] == [1000]
    for label, option in (("dpo", "beta"), ("sft", "lr")):
        one = outcome["entrants"][label]
        scores = {row["options"][option]: row["score"] for row in one["settings"]}
        assert len(scores) == 2 and one["best"] == {option: max(scores, key=scores.get)}
        for seed in (0, 1):
            config = Run(tuned.out / f"{label}-seed{seed}").config
            assert float(config[option]) == float(one["best"][option]) and config["seed"] == seed
    assert "best" in (tuned.out / "report.html").read_text() and "Tuned by length" in " ".join(tuned.found["notes"])


def test_it_chooses_by_prompts_of_the_training_part(tuned, place):
    """None of the comparison's held-out prompts is asked, and those that it asks are not trained on."""
    held = {row["prompt"] for row in place.rows[32:]}
    run = next(Run(path) for path in (tuned.out / "tuning").glob("sft*") if path.is_dir())
    asked = {row["prompt"] for row in run.read_rows("samples.jsonl") if row["eval"].startswith("length")}
    assert asked and not asked & held
    assert run.config["eval_data"] is None and run.config["eval_fraction"] == 0.1


def test_it_chooses_by_an_accuracy_of_pairs(place):
    command = ["compare", "--algos", "dpo", "--sweep", "dpo.beta=0.1,5", "--tune-by", "preference_accuracy",
               "--out", str(place.folder / "pairs"), *place.flags, "--json"]  # fmt: skip
    status, shown, err = cli(*command)
    assert status == 0, err
    tuning = json.loads(shown)["tuning"]
    assert tuning["by"] == "preference_accuracy" and tuning["cases"] >= 1
    assert all(0 <= row["score"] <= 1 for row in tuning["entrants"]["dpo"]["settings"])


def test_again_nothing_is_trained_anew(tuned):
    status, shown, err = cli(*tuned.command)
    assert status == 0 and shown.count("is already finished") == 4 + 4, err
    assert "dpo: 2 settings" in shown


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "does not know what to choose by"),
        (("--tune-by", "preference_accuracy", "--tune-seeds", "0,"), "The seed 0 is to choose and to compare"),
        (("--tune-by", "lenght(target=3)"), "lenght"),
    ],
)
def test_what_is_missing_is_told(place, more, said):
    status, _, err = cli("compare", "--algos", "dpo,sft", "--sweep", "dpo.beta=0.1,5", *more, *place.flags)
    assert status == 2 and said in err and "Traceback" not in err


def test_a_share_of_the_same_rows_is_no_held_out_part(place):
    flags = [flag for flag in place.flags if flag not in ("--eval-data", place.held)]
    status, _, err = cli(
        "compare", "--algos", "dpo,sft", "--sweep", "dpo.beta=0.1,5", "--tune-by", "preference_accuracy", *flags
    )
    assert status == 2 and "would choose by the same prompts" in err and "--eval-data FILE" in err
    status, _, err = cli("compare", "--algos", "dpo,sft", "--tune-by", "instructions", *place.flags)
    assert status == 2 and "--tune-by is for --sweep" in err
