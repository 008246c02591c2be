"""One dataclass field is a flag, a YAML key, a keyword argument and its own help."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from zoo.errors import ZooError, nearest
from zoo.options.config import TrainConfig
from zoo.options.fields import build, options_of


@dataclass
class Base:
    """Common things. With a second sentence."""

    lr: float = 1e-5
    """Peak learning
    rate."""
    steps: int | None = None
    """Stop early."""


@dataclass
class Example(Base):
    """Special things"""

    kind: Literal["soft", "hard"] = "soft"
    """Which kind."""
    names: list[str] | str = "all"
    """Names, or all."""
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    """Sizes."""
    fast: bool = False
    undocumented: str = "x"
    lr: float = 2e-5
    """Another default."""


def option(name, cls=Example):
    return {o.name: o for o in options_of(cls)}[name]


def made(**values):
    return build(Example, values, what="algorithm example")


def test_the_help_of_an_option_is_the_string_under_its_field():
    assert option("steps").help == "Stop early."
    assert option("lr", Base).help == "Peak learning rate.", "line breaks are not part of it"
    assert option("fast").help == option("undocumented").help == ""


def test_an_overridden_field_has_the_newer_default_help_and_group():
    assert (option("lr").default, option("lr").help, option("lr").group) == (2e-5, "Another default.", "Special things")


def test_the_group_of_an_option_is_the_first_line_of_its_class():
    assert option("steps").group == "Common things. With a second sentence"
    assert option("kind").group == "Special things"
    assert len({o.group for o in options_of(TrainConfig)}) == 8


def test_defaults_made_by_a_factory_are_made():
    assert option("sizes").default == [1, 2]


def test_flags_and_types_read_like_a_command_line():
    shown = {o.name: (o.flag, o.type_name, o.is_flag) for o in options_of(Example)}
    assert shown["kind"] == ("--kind", "soft|hard", False)
    assert shown["steps"] == ("--steps", "int or none", False)
    assert shown["names"] == ("--names", "str,…", False)
    assert option("columns", TrainConfig).type_name == "name=name,… or none"
    assert option("columns", TrainConfig).value_name == "name=name,…" and option("steps").value_name == "int"
    assert [option(name).default_text for name in ("steps", "lr", "names")] == ["none", "2e-05", "all"]
    assert shown["fast"] == ("--fast", "bool", True)
    assert option("max_grad_norm", TrainConfig).flag == "--max-grad-norm"


def test_every_option_of_the_core_says_what_it_is():
    assert [o.name for o in options_of(TrainConfig) if len(o.help) < 8] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"lr": "3e-7"}, 3e-7), ({"lr": 1}, 1.0), ({"steps": "12"}, 12), ({"steps": "none"}, None),
        ({"kind": "hard"}, "hard"), ({"fast": "true"}, True), ({"fast": False}, False), ({"sizes": "3, 4,"}, [3, 4]),
        ({"sizes": [5]}, [5]), ({"names": "a,b"}, ["a", "b"]), ({"names": ["a"]}, ["a"]),
    ],
)  # fmt: skip
def test_text_yaml_and_python_values_become_the_type_of_the_option(text, value):
    (name,) = text
    assert getattr(made(**text), name) == value


def test_one_word_for_a_list_or_a_word_stays_a_word_so_that_run_yaml_means_the_same_again():
    assert made(names="all").names == "all"
    assert made(names="").names == ""


def test_an_unknown_option_gets_the_nearest_name_the_origin_and_what_there_is():
    with pytest.raises(ZooError) as caught:
        build(Example, {"kindd": "soft"}, what="algorithm example", where={"kindd": "recipe.yaml"})
    assert caught.value.message == ("Unknown option 'kindd' (recipe.yaml) for algorithm example. Did you mean 'kind'?")
    assert caught.value.hint == "It takes: lr, steps, kind, names, sizes, fast, undocumented."


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"lr": "fast"}, "Option 'lr' (command line) of algorithm example must be float, got 'fast'"),
        ({"steps": 1.5}, "must be int or none, got 1.5"),
        ({"kind": "weak"}, "must be soft|hard, got 'weak'"),
        ({"sizes": "a,b"}, "must be int,…, got ['a', 'b']"),
        ({"undocumented": 2402.033}, "must be str, got 2402.033"),
        ({"fast": "perhaps"}, "must be bool, got 'perhaps'"),
        ({"lr": None}, "must be float, got None"),
    ],
)
def test_a_value_of_the_wrong_type_says_which_where_what_and_the_help(values, expected):
    (name,) = values
    with pytest.raises(ZooError) as caught:
        build(Example, values, what="algorithm example", where={name: "command line"})
    assert expected in caught.value.message
    assert caught.value.hint == f"{option(name).flag}: {option(name).help}"


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ZooError) as caught:
        made(kindd="soft", lrr=1)
    assert "'kindd'" in caught.value.message and "'lrr'" in caught.value.message
    with pytest.raises(ZooError) as caught:
        made(lr="fast", kind="weak")
    assert "'lr' of" in caught.value.message and "'kind' of" in caught.value.message
    assert caught.value.hint == "--lr: Another default.\n--kind: Which kind."


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [("bata", ["data", "beta"], "beta"), ("bata", ["beta", "data"], "beta"), ("epoch", ["epochs", "every"], "epochs"),
     ("xyz", ["data"], None), ("dat", ["data", "data"], "data")],
)  # fmt: skip
def test_the_nearest_name_begins_with_the_same_letter_where_two_are_equally_near(name, choices, expected):
    assert nearest(name, choices) == (f" Did you mean '{expected}'?" if expected else "")


def test_a_missing_option_is_named():
    @dataclass
    class Needy:
        path: str

    with pytest.raises(ZooError, match="Option 'path' of needy must be str"):
        build(Needy, {}, what="needy")


def test_options_that_do_not_go_together_say_why_in_the_words_of_their_class():
    @dataclass
    class Careful:
        low: float = 0.0
        """How low."""
        high: float = 1.0
        """How high."""

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError("low is above high")

    assert build(Careful, {"low": 0.5}, what="careful").low == 0.5
    with pytest.raises(ZooError, match="These options of careful cannot be used: low is above high; got ") as told:
        build(Careful, {"low": 2}, what="careful", where={"low": "command line"})
    assert "low = 2 (command line), high = 1.0" in told.value.message
    assert told.value.hint == "--low: How low.\n--high: How high."


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), "inf", "NaN"])
def test_a_number_must_be_finite(value):
    @dataclass
    class Rates:
        lr: float | None = 1e-5
        """Peak learning rate."""
        name: str = "a"
        """Any name."""

    with pytest.raises(ZooError, match=r"'lr' \(run.yaml\) of rates must be a finite number, got ") as told:
        build(Rates, {"lr": value}, what="rates", where={"lr": "run.yaml"})
    assert told.value.hint == "--lr: Peak learning rate."
    assert build(Rates, {"lr": "none", "name": "inf"}, what="rates").name == "inf"


def test_a_class_without_source_still_has_options():
    namespace = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass Made:\n    x: int = 1\n    'Help.'", namespace)
    assert [(o.name, o.help) for o in options_of(namespace["Made"])] == [("x", "")]
