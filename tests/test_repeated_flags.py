"""A flag that is given twice: the last one never wins without a word."""

import pytest
import typer
from each import each
from tiny_runs import cli

from zoo.cli import data, main
from zoo.cli.help import App
from zoo.errors import ZooError


def commands():
    """Every command and verb by what is typed, with the flags of an algorithm in `train`."""
    app = App()
    main_app, main.app = main.app, app
    try:
        main.add_commands([])
        main.add_commands(["train", "--algo", "dpo"])
    finally:
        main.app = main_app
    found = dict(typer.main.get_command(app).commands)
    return found | {f"data {name}": verb for name, verb in data.DataCommand.verbs(found["data"]).items()}


def test_an_option_of_one_value_is_refused_twice_and_a_list_is_not():
    options = [
        (name, command, parameter)
        for name, command in commands().items()
        for parameter in command.params
        if parameter.param_type_name == "option"
    ]
    assert len(options) > 200
    each(options, lambda one: check_twice(*one[1:]), name=lambda one: f"{one[0]} {one[2].opts[0]}")


def check_twice(command, option):
    first, second = (option.opts[0], (option.secondary_opts or option.opts)[0])
    typed = [first, second] if option.is_flag else [first, "1", f"{second}=2"]
    one_value = not option.multiple and (not option.is_flag or first != second)
    if one_value:
        with pytest.raises(ZooError, match=rf"{first} is given twice: .* and .*\."):
            command.make_context("zoo", typed)
        return
    try:
        command.make_context("zoo", typed)
    except ZooError as error:
        pytest.fail(str(error))
    except Exception as error:
        assert "twice" not in str(error)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("train", "--data", "a.jsonl", "--data=b.jsonl"),
         "--data is given twice: a.jsonl and b.jsonl.\nGive one: --data a.jsonl. The files of one folder are read "
         "together: --data FOLDER"),
        (("train", "--score", "gold", "--score", "harm"),
         "--score is given twice: gold and harm.\nGive one list, separated by commas: --score gold,harm"),
        (("train", "--algo", "dpo", "--beta", "1", "--beta", "2", "--beta", "3"),
         "--beta is given 3 times: 1 and 2 and 3.\nGive one of them: --beta 3"),
        (("data", "starter", "--strict", "--no-strict"),
         "--strict is given twice: --strict and --no-strict.\nGive one of them: --no-strict"),
        (("data", "dedup", "rows.jsonl", "--near", "0.8", "--near", "0.9"), "--near is given twice: 0.8 and 0.9."),
        (("compare", "--algos", "dpo", "--algos", "sft"), "separated by commas: --algos dpo,sft"),
        (("compare", "--algos", "dpo", "--set", "dpo.beta=1", "--set", "dpo.beta=2"),
         "--set gives dpo.beta twice: 1 and 2."),
    ],
)  # fmt: skip
def test_it_says_both_values_and_what_to_type(arguments, says):
    status, _, err = cli(*arguments)
    assert status == 2 and says in err
