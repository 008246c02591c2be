"""`zoo new-plugin` writes a package that installs, passes its own tests and trains, for every kind of data."""

import os
import pathlib
import re
import sys

import pytest
from packages import forget_modules, put_on_path, run
from tiny_runs import cli, trainer

from zoo import scaffold
from zoo.contract import registry
from zoo.contract.algorithm import DATA_KINDS
from zoo.errors import ZooError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget_modules(tmp_path)


def test_it_writes_five_files_and_says_what_to_type_next(place):
    status, shown, _ = cli("new-plugin", "my-own", "--data", "preference")
    assert status == 0
    assert {file.name for file in place.iterdir()} == {"zoo-my-own"}
    names = {"README.md", "pyproject.toml", "rows.jsonl", "test_zoo_my_own.py", "zoo_my_own.py"}
    assert {file.name for file in (place / "zoo-my-own").iterdir()} == names
    assert all(name in shown for name in names)
    steps = ["cd zoo-my-own", "pip install -e .", "zoo check my-own", "zoo train --algo my-own --data rows.jsonl"]
    assert [line.removeprefix("next").strip() for line in shown.splitlines()[-4:]] == steps


def test_it_writes_where_it_is_told_to(place):
    assert cli("new-plugin", "mine", "--data", "text", "--out", "some/where")[0] == 0
    assert (place / "some" / "where" / "zoo-mine" / "zoo_mine.py").is_file()
    assert (place / "some" / "where" / "zoo-mine").stat().st_mode & 0o777 == (place / "some").stat().st_mode & 0o777


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_every_kind_trains_as_it_is_written(place, kind, monkeypatch, tiny_folder):
    name = f"my-{kind}"
    folder = scaffold.new_plugin(name, kind, place)
    put_on_path(folder, monkeypatch)
    assert registry.find(name).full_name == f"{name}@zoo-my-{kind}"
    described = registry.describe(registry.find(name))
    assert described["data"] == kind and described["paper"].startswith("arXiv:") and described["description"]
    online = (
        {"reward": "zoo.testing.tiny:tiny_reward", "max_new_tokens": 8, "batch_size": 16} if kind == "prompt" else {}
    )
    made = trainer(place, tiny_folder)(name, data=str(folder / "rows.jsonl"), **{"epochs": 8, "lr": 3e-3, **online})
    # Rewards rise, losses fall.
    found = [row["rollout/reward"] * -1 if online else row["loss"] for row in made.log_history if "loss" in row]
    assert sum(found[-3:]) < sum(found[:3]), "it learns its own rows"
    declared = registry.load_algorithm(name)[1].metrics
    assert set(declared) <= set(made.log_history[-1]) | {name for row in made.log_history for name in row}


@pytest.mark.long
def test_the_tests_that_it_writes_pass_for_every_kind(place, monkeypatch):
    folders = [scaffold.new_plugin(f"my-{kind}", kind, place) for kind in DATA_KINDS]
    for folder in folders:
        put_on_path(folder, monkeypatch)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    shown = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders, cwd=place, env=env)
    passed = int(re.search(r"(\d+) passed", shown).group(1))
    assert passed >= 17 * len(DATA_KINDS) and "failed" not in shown and "xfailed" not in shown, shown


def test_an_algorithm_for_prompts_makes_rollouts_and_is_told_its_reward(place):
    shown = cli("new-plugin", "a", "--data", "prompt")[1]
    assert shown.splitlines()[-1].strip() == "zoo train --algo a --data rows.jsonl --reward length"
    assert "zoo train --algo a --data rows.jsonl --reward length\n" in (place / "zoo-a" / "README.md").read_text()
    assert "def rollout(" in (place / "zoo-a" / "zoo_a.py").read_text()
    assert "--reward" not in cli("new-plugin", "b", "--data", "feedback")[1]


# -- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My.Algo", "cannot be the name of an algorithm"),
        ("3d", "cannot be the name of an algorithm"),
        ("a--b", "cannot be the name of an algorithm"),
        ("-a", "cannot be the name of an algorithm"),
        ("none", "cannot be the name of an algorithm"),
        ("übung", "cannot be the name of an algorithm"),
        ("../up", "cannot be the name of an algorithm"),
        ("sft", "The name 'sft' is taken (sft@post-training-zoo)"),
        ("default", "The name 'default' is taken"),
        ("plugins", "a module zoo_plugins or a package zoo-plugins is installed"),
        ("loss", "The name 'loss' gives a class Loss, which zoo.api already has."),
    ],
)
def test_a_name_that_cannot_be_or_is_taken_is_refused(place, name, says):
    with pytest.raises(ZooError, match=re.escape(says)):
        scaffold.new_plugin(name, "text", place)
    assert not list(place.iterdir())


def test_the_hint_for_a_bad_name_is_a_good_one(place):
    with pytest.raises(ZooError) as caught:
        scaffold.check_name("My.Algo 2")
    suggested = caught.value.hint.split()[-1]
    assert suggested == "my-algo-2" or suggested == "my-algo"
    scaffold.check_name(suggested)


def test_a_folder_that_is_there_is_left_alone(place):
    (place / "zoo-mine").mkdir()
    (place / "zoo-mine" / "work.py").write_text("kept")
    status, _, shown = cli("new-plugin", "mine", "--data", "text")
    assert status == 2 and "zoo-mine already exists" in shown
    assert [file.name for file in (place / "zoo-mine").iterdir()] == ["work.py"]


def test_an_unknown_kind_gets_the_nearest_and_none_at_all_the_list(place):
    status, _, shown = cli("new-plugin", "mine", "--data", "preferences")
    assert status == 2 and "Did you mean 'preference'?" in shown
    status, _, shown = cli("new-plugin", "mine")
    assert status == 2 and all(kind in shown for kind in DATA_KINDS)
    assert not list(place.iterdir())


def test_a_write_that_fails_leaves_nothing(place, monkeypatch):
    written = pathlib.Path.write_text

    def full(self, *arguments, **options):
        if self.name == "rows.jsonl":
            raise OSError(28, "No space left on device")
        return written(self, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(ZooError, match="zoo-mine cannot be written: No space left on device"):
        scaffold.new_plugin("mine", "text", place)
    assert not list(place.iterdir())
