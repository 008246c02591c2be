"""Options from several places, each value with its origin, and YAML that means what it looks like."""

import re
from dataclasses import asdict, dataclass
from typing import Literal

import pytest
from tiny_runs import cli

from zoo.contract.algorithm import Algorithm, validate
from zoo.errors import PluginError, ZooError
from zoo.options.config import TrainConfig, resolve
from zoo.options.strict_yaml import read_yaml, write_yaml
from zoo.training.run import resolve_options


class Example(Algorithm):
    """For tests."""

    api_version = 2
    data = "preference"
    defaults = {"lr": 5e-7, "batch_size": 32}

    @dataclass
    class Config:
        beta: float = 0.1
        """Scale β."""
        kind: Literal["soft", "hard"] = "soft"
        """Which kind."""


def resolved(file=None, flags=None, cls=Example):
    return resolve("example", cls, [("recipe.yaml", file or {}), ("command line", flags or {})])


def test_later_places_outrank_earlier_ones_and_every_value_knows_its_origin():
    found = resolved(file={"lr": 1e-6, "beta": 0.2, "seed": 3}, flags={"seed": 4, "kind": "hard"})
    origin, core = found.origin, found.core
    assert (core.epochs, origin["epochs"]) == (1.0, "default")
    assert (core.batch_size, origin["batch_size"]) == (32, "default of example")
    assert (core.lr, origin["lr"]) == (1e-6, "recipe.yaml")
    assert (core.seed, origin["seed"]) == (4, "command line")
    assert (found.algorithm.beta, origin["beta"]) == (0.2, "recipe.yaml")
    assert (found.algorithm.kind, origin["kind"]) == ("hard", "command line")
    assert isinstance(found.algorithm, Example.Config)


def test_a_resolved_configuration_is_complete_and_runs_again_as_it_is(tmp_path):
    found = resolved(flags={"beta": "0.3", "lora": True, "columns": "prompt=q", "score": "auto", "loggers": ""})
    write_yaml(tmp_path / "run.yaml", found.as_dict())
    values = read_yaml(tmp_path / "run.yaml")
    assert set(values) == {"algo", "beta", "kind", *asdict(TrainConfig())}
    assert values.pop("algo") == "example"
    again = resolve("example", Example, [("run.yaml", values)])
    assert (again.core, again.algorithm) == (found.core, found.algorithm)


def test_an_option_neither_the_core_nor_the_algorithm_has_is_an_error_with_the_nearest_name():
    with pytest.raises(ZooError, match=r"'betta' \(command line\) for --algo example. Did you mean 'beta'"):
        resolved(flags={"betta": 1})
    with pytest.raises(ZooError, match=r"'batchsize' \(recipe.yaml\) .* Did you mean 'batch_size'"):
        resolved(file={"batchsize": 1})


def test_unknown_names_are_all_said_and_the_long_list_is_a_command_away():
    with pytest.raises(ZooError) as caught:
        resolved(file={"bata": 1, "lerning": 2})
    first, second = caught.value.message.splitlines()
    assert "Did you mean 'beta'?" in first, "not 'data', which is as near"
    assert "'lerning' (recipe.yaml)" in second
    assert "zoo train --algo example --help" in caught.value.hint and len(caught.value.hint) < 80


def test_a_wrong_value_names_its_origin():
    with pytest.raises(ZooError, match=r"'lr' \(recipe.yaml\) of zoo train must be float, got 'high'"):
        resolved(file={"lr": "high"})
    with pytest.raises(ZooError, match=r"'beta' \(command line\) of algorithm example must be float"):
        resolved(flags={"beta": "x"})


def test_an_algorithm_may_not_redefine_an_option_of_the_core_or_of_the_command():
    for taken in ("lr", "algo", "dry_run"):

        class Clashing(Example):
            Config = dataclass(type("Config", (), {"__annotations__": {taken: float}, taken: 1.0}))

        with pytest.raises(PluginError, match=f"its option '{taken}' is an option of the core"):
            validate(Clashing, "clashing")


def test_a_wrong_default_of_an_algorithm_is_named_as_its_own():
    class Wrong(Example):
        defaults = {"learning_rate": 1.0}

    with pytest.raises(ZooError, match=r"'learning_rate' \(default of example\)"):
        resolved(cls=Wrong)


def test_code_of_others_is_trusted_by_hand_only():
    assert resolved(flags={"trust_remote_code": True}).core.trust_remote_code
    assert not resolved(file={"trust_remote_code": False}).core.trust_remote_code, "as every run.yaml says"
    for value in (True, "true", 1):
        with pytest.raises(ZooError, match="trust_remote_code cannot be set in recipe.yaml"):
            resolved(file={"trust_remote_code": value})

    class Trusting(Example):
        defaults = {"trust_remote_code": True}

    with pytest.raises(ZooError, match="cannot be set in default of example"):
        resolved(cls=Trusting)


# -- YAML --------------------------------------------------------------------------------------------------------


def read(tmp_path, text):
    file = tmp_path / "options.yaml"
    file.write_text(text, encoding="utf-8")
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-7", 3e-7), ("5E-6", 5e-6), ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("-2", -2), ("+3", 3), ("010", 10),
        ("1e3", 1000.0), (".inf", float("inf")), ("true", True), ("False", False), ("null", None), ("~", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"), ("0x10", "0x10"), ("arXiv:2402.03300", "arXiv:2402.03300"),
        ("'2402.03300'", "2402.03300"), ("[a, 1]", ["a", 1]), ("tröt", "tröt"),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_look_like(tmp_path, text, value):
    found = read(tmp_path, f"x: {text}\n")["x"]
    assert found == value and type(found) is type(value)


def test_a_bare_arxiv_number_is_not_taken_for_text_in_silence(tmp_path):
    """It is a number, as in any YAML; an option that wants text refuses it, and quotes repair it."""
    values = read(tmp_path, "name: 2402.03300\n")
    with pytest.raises(ZooError, match="'name' .* must be str or none, got 2402.033"):
        resolved(file=values)


def test_two_equal_keys_are_an_error_with_both_lines(tmp_path):
    with pytest.raises(ZooError, match=r"options.yaml:3: the key 'lr' occurs twice \(first on line 1\)"):
        read(tmp_path, "lr: 1e-5\nbeta: 0.1\nlr: 1e-6\n")
    with pytest.raises(ZooError, match=r"options.yaml:3: the key 'b'"):
        read(tmp_path, "a:\n  b: 1\n  b: 2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\n", "not valid YAML"),
        ("- a\n- b\n", "must hold `option: value` lines, not a list"),
        ("just words\n", "not a str"),
        ("{{ x }}: 1\n", "options.yaml:1: a key must be a plain word"),
        ("x: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_of_options_says_so(tmp_path, text, message):
    with pytest.raises(ZooError, match=message):
        read(tmp_path, text)


def test_an_empty_file_has_no_options_and_a_missing_one_is_named(tmp_path):
    assert read(tmp_path, "# nothing\n") == {}
    with pytest.raises(ZooError, match="There is no file .*missing.yaml"):
        read_yaml(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(ZooError, match="binary.yaml is not valid YAML"):
        read_yaml(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "3e-7", "1e5", "08", "007", "no", "yes", "null", "~", "", "true", "2402.03300", "1_000", "0x10", "12:30",
        "a: b", "2024-01-02", "- x", "#x", "ü\n two lines", ".inf", "=", "<<",
        3e-7, 1e-05, 1e20, 1.0, -0.0, float("inf"), 0, 10**12, True, None, [], ["a", "1e5"], {"a": "b"},
    ],
)  # fmt: skip
def test_whatever_is_written_is_read_back_with_its_type(tmp_path, value):
    write_yaml(tmp_path / "x.yaml", {"x": value})
    found = read_yaml(tmp_path / "x.yaml")["x"]
    assert found == value and type(found) is type(value)


def test_every_default_of_the_core_survives_a_round_trip(tmp_path):
    write_yaml(tmp_path / "x.yaml", asdict(TrainConfig()))
    assert read_yaml(tmp_path / "x.yaml") == asdict(TrainConfig())


# -- no value is a value -------------------------------------------------------------------------------------------


def constant(given, origin="keyword argument", between=(), config=None):
    found = resolve_options("grpo", config, given, origin, between)[0]
    return found.algorithm.length_constant, found.origin["length_constant"]


def test_none_that_is_given_outranks_what_a_variant_sets(tmp_path):
    """The variant rloo sets length_constant 1."""
    rloo = {"variant": "rloo"}
    (tmp_path / "a.yaml").write_text("variant: rloo\nlength_constant: null\n")
    assert constant(rloo) == (1, "variant rloo")
    assert constant({**rloo, "length_constant": None}) == (None, "keyword argument")
    assert constant({**rloo, "length_constant": "none"}, "command line") == (None, "command line")
    assert constant({}, config=tmp_path / "a.yaml")[0] is None
    assert constant({}, between=[("recipe x", {**rloo, "length_constant": None})]) == (None, "recipe x")
    assert constant({"length_constant": 2}, between=[("recipe x", {**rloo, "length_constant": None})])[0] == 2


@pytest.mark.parametrize("nothing", [None, "none"])
def test_no_variant_can_be_asked_for(nothing):
    assert constant({"variant": nothing}, between=[("recipe x", {"variant": "rloo"})])[0] is None


def test_none_for_an_option_that_needs_a_value_is_as_good_as_nothing():
    assert resolve_options("sft", None, {"lr": None, "seed": 3}, "keyword argument")[0].core.seed == 3


def test_the_command_line_gives_only_what_was_typed():
    """Flags that were left out are None in the program, and no values."""
    status, out, _ = cli("train", "--algo", "grpo", "--variant", "rloo", "--reward", "length", "--dry-run")
    assert status == 0 and re.search(r"length_constant +1 ", out)
    status, out, _ = cli("train", "--algo", "grpo", "--variant", "rloo", "--length-constant", "none", "--dry-run")
    assert status == 0 and re.search(r"length_constant +None +command line", out)
