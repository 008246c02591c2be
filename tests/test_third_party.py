"""A package from outside, and one that `zoo new-plugin` wrote, beside zoo: in this process, and with its wheel."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from packages import forget_modules, fresh_environment, put_on_path, run
from tiny_runs import FLOAT32, cli, trainer

from zoo.contract import registry
from zoo.environments import Turn
from zoo.environments.named import available, check_environment, make_pool
from zoo.rewards.reward import Reward
from zoo.testing.suite import CHECKS

SUMS = Path(__file__).parent / "third_party" / "zoo-sums"


@pytest.fixture
def sums(tmp_path, monkeypatch):
    """The package on the path of this process."""
    folder = Path(shutil.copytree(SUMS, tmp_path / "zoo-sums"))
    put_on_path(folder, monkeypatch)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget_modules(folder)


def test_its_algorithm_is_listed_and_described(sums):
    entry = registry.find("awr")
    assert (entry.full_name, entry.version) == ("awr@zoo-sums", "0.3.0")
    listed = json.loads(cli("algos", "--json")[1])
    (row,) = [row for row in listed if row["name"] == "awr"]
    assert (row["data"], row["needs"]) == ("feedback", "depends on options")
    shown = cli("algos", "awr")[1]
    assert "--beta" in shown and "V, the running mean of the rewards." in shown


def test_its_source_gives_data_and_held_out_data_to_its_algorithm(sums, tiny_folder):
    run = trainer(sums, tiny_folder)("awr", data="sums", max_steps=3, penalty_weight=0.1, eval_fraction=0.1)
    steps = [row for row in run.log_history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert {"weight", "usual", "penalty"} <= set(steps[-1]) and "val/loss" in run.log_history[-1]
    assert steps[0]["penalty"] == 0.0 and steps[-1]["penalty"] > 0


def test_its_source_serves_bundled_algorithms_too(sums, tiny_folder):
    run = trainer(sums, tiny_folder)("sft", data="sums", limit=8, max_steps=1)
    assert run.status == "finished"


def test_its_reward_scores_answers(sums):
    reward = registry.contributions(registry.manager(), "rewards")["sums"]
    assert reward(["5", "It is 12.", "none"], [{"sum": 5}, {"sum": 11}, {"sum": 1}]) == [1.0, 0.0, 0.0]


def test_its_reward_is_taken_by_its_name(sums, tiny_folder):
    named = registry.contributions(registry.manager(), "rewards")
    records = [{"prompt": "What is 2 + 3?", "sum": 5}] * 2 + [{"prompt": "What is 2 + 3?"}]
    assert Reward("1 - 0.5*sums", named).score(["5", "6", "5"], records) == [0.5, 1.0, None]
    status, shown, err = cli("eval", tiny_folder, "--reward", "1 - sums", "--data", "sums", "--limit", 4, "--json")
    (score,) = json.loads(shown).values()
    # Nobody taught the tiny model to add, and no reward is missing.
    assert (status, score["value"], score["n"]) == (0, 1.0, 4), err
    options = {"answers_per_prompt": 2, "max_new_tokens": 4, "batch_size": 4}
    run = trainer(sums, tiny_folder)("grpo", data="sums", reward="1 - sums", max_steps=1, **options)
    assert run.log_history[0]["rollout/reward"] == 1.0


def test_its_optimizer_and_schedule_are_listed_checked_and_train(sums, tiny_folder):
    *_, row = json.loads(cli("optimizers", "--json")[1])
    about = "signSGD with momentum (arXiv:1802.04434)."
    assert row == {"name": "signs", "description": about, "options": {"momentum": 0.9}}
    status, shown, err = cli("check", "signs", "--json")
    assert status == 0 and {check["result"] for check in json.loads(shown)["checks"]} == {"passed"}, err
    options = {"data": "sums", "limit": 12, "batch_size": 2, "epochs": 1, "eval_fraction": 0.0, "warmup": 0, "lr": 0.01}
    run = trainer(sums, tiny_folder)("sft", optimizer="signs(momentum=0.8)", schedule="stairs(height=0.1)", **options)
    rates = [row["lr"] for row in run.log_history if "lr" in row]
    steps = len(rates)
    assert rates == pytest.approx([0.01 * 0.1 ** (3 * step // steps) for step in range(steps)])
    status, _, error = cli("train", "--data", "sums", "--model", tiny_folder, "--optimizer", "signs(speed=1)")
    assert status == 2 and "The optimizer 'signs' has no option 'speed'" in error


def test_its_environment_is_listed_and_answers(sums):
    (row,) = [row for row in json.loads(cli("environments", "--json")[1]) if row["name"] == "abacus"]
    about = "Adds two numbers, as often as it is asked to."
    assert row == {"name": "abacus", "description": about, "options": {"most": 3}, "data": "sums"}
    # The second time from its card.
    assert json.loads(cli("environments", "abacus", "--json")[1]) == row
    named = registry.contributions(registry.manager(), "environments")
    check_environment("abacus(most=1)", available())
    pool = make_pool("abacus(most=1)", named, 60.0)
    episode = pool.start({"sum": 5}, seed=0)
    assert episode.receive() == Turn([])
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
    episode.step({"role": "assistant", "content": "", "tool_calls": [call]})
    assert episode.receive() == Turn([{"role": "tool", "name": "add", "content": "5"}])
    episode.step({"role": "assistant", "content": "It is 5."})
    assert episode.receive() == Turn([], done=True, reward=0.0)
    pool.close()


def test_a_bug_in_an_installed_plugin_names_its_package_file_and_line(sums, tiny_folder, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(sums / "cache"))
    file = sums / "zoo-sums" / "zoo_sums" / "algorithm.py"
    file.write_text(file.read_text().replace("batch.label.float() - usual", "batch.lable - usual"))
    line = 1 + file.read_text().splitlines().index("        advantage = batch.lable - usual")
    status, _, shown = cli("train", "--algo", "awr", "--data", "sums", "--model", tiny_folder, "--precision", "32-true")
    assert status == 1
    assert f"zoo_sums/algorithm.py, line {line}, in loss (zoo-sums 0.3.0): AttributeError: The batch has no" in shown
    assert "Did you mean 'label'?" in shown and "        advantage" not in shown and "    advantage = " in shown


def test_it_conforms(sums):
    status, shown, _ = cli("check", "awr", "--json")
    results = {check["check"]: check["result"] for check in json.loads(shown)["checks"]}
    assert status == 0
    skipped = {name for name, result in results.items() if result == "skipped"}
    # It declares no first values, has no frozen role, and makes no rollouts.
    rollouts = {name for name, at in CHECKS.items() if at.startswith(("rollouts.", "episodes."))}
    assert skipped == {"step-one identities", "frozen roles", *rollouts}
    assert {result for name, result in results.items() if name not in skipped} == {"passed"}


@pytest.mark.long
@pytest.mark.parametrize("name", ["discopop", "gdpo", "maxrl", "rho1", "trdpo"])
def test_an_algorithm_of_one_file_fits_and_passes_its_own_tests(name, tmp_path, monkeypatch):
    """Numbers of other programs, and the conformance suite."""
    folder = Path(shutil.copytree(SUMS.parent / f"zoo-{name}", tmp_path / f"zoo-{name}"))
    put_on_path(folder, monkeypatch)
    assert registry.find(name).full_name == f"{name}@zoo-{name}"
    env = {**os.environ, "PYTHONPATH": str(folder), "ZOO_CACHE": str(tmp_path / "cache")}
    shown = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder, cwd=tmp_path, env=env)
    assert int(re.search(r"(\d+) passed", shown).group(1)) >= 20, shown
    forget_modules(folder)


@pytest.mark.slow
def test_both_work_in_a_fresh_environment_with_the_wheel_and_no_source(tmp_path, tiny_folder):
    """Installed by pip from their own pyproject.toml, next to the wheel of zoo; commands as a person types them."""
    assert cli("new-plugin", "novel", "--data", "preference", "--out", tmp_path)[0] == 0
    sums = shutil.copytree(SUMS, tmp_path / "sums")
    programs, env = fresh_environment(tmp_path / "env", sums, tmp_path / "zoo-novel")
    zoo, python = programs / "zoo", programs / "python"
    work = tmp_path / "work"
    work.mkdir()
    where = run(python, "-c", "import zoo, zoo_plugins; print(zoo.__file__, zoo_plugins.__file__)", cwd=work, env=env)
    assert all(str(tmp_path / "env" / "lib") in file for file in where.split())

    def typed(*arguments):
        return run(zoo, *arguments, cwd=work, env={**env, "ZOO_CACHE": str(tmp_path / "cache")})

    assert {"awr", "novel", "sft"} <= {row["name"] for row in json.loads(typed("algos", "--json"))}
    assert "No problems were found" in typed("doctor")
    flags = [part for key, value in FLOAT32.items() for part in (f"--{key.replace('_', '-')}", value)]
    for name, data in (("awr", "sums"), ("novel", tmp_path / "zoo-novel" / "rows.jsonl")):
        typed("check", name)
        typed("train", "--algo", name, "--data", data, "--model", tiny_folder, "--max-steps", "2", *flags)
        assert (work / "runs" / f"{name}-tiny-1" / "model" / "config.json").is_file()
    assert "sums" in typed("eval", tiny_folder, "--reward", "sums", "--data", "sums", "--limit", "2")
    rollout = ("--answers-per-prompt", "2", "--max-new-tokens", "4", "--model", tiny_folder, "--max-steps", "1", *flags)
    typed("train", "--algo", "grpo", "--data", "sums", "--reward", "sums", *rollout)
    for folder in (sums, tmp_path / "zoo-novel"):
        tests = next(folder.glob("test_*.py"))
        shown = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, cwd=work, env=env)
        assert int(re.search(r"(\d+) passed", shown).group(1)) >= 15, shown
    # A scaffold takes no name that is installed.
    with pytest.raises(AssertionError, match="The name 'novel' is taken"):
        typed("new-plugin", "novel", "--data", "text")
