"""`zoo check --environment`: a sound environment passes, and each check catches what it is made for."""

import json
from pathlib import Path

import pytest
from tiny_runs import cli

from zoo.errors import ZooError
from zoo.testing.environments import NAMES, check_environment

FILE = Path(__file__).parent / "broken_environments.py"
CAUGHT = {
    "described": "The class has no docstring",
    "tools": "The tool open has no description: write a docstring.",
    "data": "no-such-file.jsonl",
    "begins": "An episode: AssertionError: the seed is odd",
    "answers": "the reward nan, which is no finite number",
    "messages": "It speaks as 'assistant', which is the policy's role",
    "ends": "No episode ends within 64 turns",
    "repeatable": "A second episode with the same seed says something else to turn 1",
    "apart": "An episode beside another one says something else to turn",
    "nonsense": "After an empty text: IndexError",
    "closes": "close() goes wrong after 0 turns: its process ended with exit status 1",
}


def found(name, *only, **how):
    return {result.check: result for result in check_environment(f"{FILE}:{name}", only, **how)}


def test_a_sound_environment_passes():
    results = found("Sound")
    assert tuple(results) == NAMES and {result.result for result in results.values()} == {"passed"}, results


@pytest.mark.parametrize("name", ["calculator", "rooms"])
def test_the_bundled_ones_pass(name):
    """Nobody wins the game of rooms by chance: its demonstrations do."""
    results = {result.check: result.result for result in check_environment(name)}
    assert tuple(results) == NAMES and set(results.values()) == {"passed"}, results


def test_an_environment_whose_methods_are_all_async_passes():
    results = {result.check: result.result for result in check_environment(f"{FILE}:Waiting")}
    assert set(results.values()) == {"passed"}, results


@pytest.mark.parametrize("check", NAMES)
def test_each_check_catches_what_it_is_made_for(check):
    result = found(check.capitalize(), check)[check]
    assert result.result == "failed" and CAUGHT[check] in result.detail, result.detail


@pytest.mark.parametrize("check", ["described", "ends", "messages", "closes"])
def test_only_that_check_fails_for_it(check):
    assert {name for name, result in found(check.capitalize()).items() if result.result == "failed"} == {check}


@pytest.mark.parametrize(
    ("name", "says"),
    [("Wordless", "without a text as content"), ("Halves", "'one ?' has half of a character (a lone surrogate")],
)
def test_what_is_no_message_fails_that_check_alone(name, says):
    results = found(name)
    assert [check for check, result in results.items() if result.result == "failed"] == ["messages"]
    assert says in results["messages"].detail and results["answers"].result == "skipped"
    assert found(name, "answers")["answers"].result == "failed"


def test_what_cannot_be_made_is_told_once_and_tried_once(tmp_path):
    made = tmp_path / "made"
    file = tmp_path / "faulty.py"
    file.write_text(f"""
from zoo.api import Environment

class Faulty(Environment):
    'Cannot be made.'

    def __init__(self):
        open({str(made)!r}, "a").write("x")
        raise ValueError("no display")
""")
    results = list(check_environment(f"{file}:Faulty"))
    assert [result.result for result in results] == ["passed", "failed", *["skipped"] * (len(NAMES) - 2)]
    assert (
        "cannot be made: ValueError: no display (" in results[1].detail
        and results[-1].detail == "Not tried, see tools."
    )
    assert made.read_text() == "x"


def test_the_prompts_may_be_given(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "one"}\n')
    assert found("Data", "data", data=str(rows))["data"].result == "passed"


def test_an_environment_is_checked_by_the_same_command():
    status, out, _ = cli("check", "--environment", f"{FILE}:Tools", "--json", "--only", "tools", "--only", "described")
    content = json.loads(out)
    assert (status, content["passed"]) == (1, False) and content["environment"].endswith(":Tools")
    assert [one["check"] for one in content["checks"] if one["result"] == "failed"] == ["tools"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--environment", "no-such"], "No environment is called 'no-such'"), ([], "takes one thing to check"),
     (["grpo", "--data", "rows.jsonl"], "--data is of environments")],
)  # fmt: skip
def test_bad_input_ends_with_status_2(arguments, words):
    status, _, error = cli("check", *arguments)
    assert status == 2 and words in error


def test_a_check_that_does_not_exist_is_refused():
    with pytest.raises(ZooError, match="Did you mean 'closes'"):
        found("Sound", "close")


def test_the_page_explains_every_check_in_the_words_of_its_code():
    from zoo.testing.environments import CHECKS

    page = (Path(__file__).parent.parent / "docs" / "environments.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.split("## Checked")[1].splitlines() if line.startswith("| ")]
    assert rows[1:] == [[name, (check.__doc__ or "").split("\n")[0]] for name, check in CHECKS.items()]
