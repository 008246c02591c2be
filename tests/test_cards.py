"""A card says of an algorithm what the algorithm says itself, and never stands in the way."""

import json
import sys
import textwrap
from dataclasses import dataclass, field

import pytest

from zoo import cards
from zoo.cards import kept
from zoo.cards.algorithms import describe, stand_in
from zoo.cards.contributed import contributed
from zoo.cards.values import Unwritable, type_in, type_out, value_out
from zoo.cli.listings import algorithm_card
from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError
from zoo.evals import Eval
from zoo.evals.chosen import choose
from zoo.options.fields import build, options_of
from zoo.training import outlook

BUNDLED = [entry.name for entry in registry.algorithms()]


def never():
    raise AssertionError("the plugin itself was asked")


def from_card(cls, load=never):
    """The class made from a card that went through a file."""
    return stand_in(json.loads(json.dumps(describe(cls))), load)


def told(cls, values):
    """The options of a class from values, or why not."""
    try:
        return vars(build(cls.Config, values, what="it"))
    except ZooError as error:
        return str(error)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_card_says_what_the_algorithm_says(name, monkeypatch):
    cls = registry.load_algorithm(name)[1]
    copy = from_card(cls)
    assert options_of(copy.Config) == options_of(cls.Config)
    assert (copy.kinds(), copy.head, copy.online()) == (cls.kinds(), cls.head, cls.online())
    assert hasattr(copy, "prepare") == hasattr(cls, "prepare")
    monkeypatch.setattr("zoo.cli.listings.described", lambda name: (name, cls))
    real = algorithm_card(name)
    monkeypatch.setattr("zoo.cli.listings.described", lambda name: (name, copy))
    assert algorithm_card(name) == real


@pytest.mark.parametrize("name", BUNDLED)
def test_a_card_checks_options_as_the_algorithm_does_and_needs_the_same_roles(name):
    """Without the algorithm itself: none of the bundled ones needs more for it than a card has."""
    cls = registry.load_algorithm(name)[1]
    copy = from_card(cls)
    for option in options_of(cls.Config):
        for value in ("-1", "0", "0.5", "1", "2", "nan", "none", "words", True):
            values = {option.name: value}
            assert told(copy, values) == told(cls, values)
            if isinstance(told(cls, values), dict):
                configs = [build(one.Config, values, what="it") for one in (copy, cls)]
                assert copy().roles(configs[0]) == cls().roles(configs[1])


class Base(Algorithm):
    """One."""

    api_version = 2
    data = "preference"

    def loss(self, batch):
        pass


def test_rules_that_read_more_than_a_card_has_are_the_algorithms_own():
    class Own(Base):
        @dataclass
        class Config:
            share: float = 0.5

            def __post_init__(self):
                if sys.modules["pytest"] and self.share > self.most():
                    raise ValueError("share is too large")

            def most(self):
                return 1.0

        def needs(self, config):
            return self._roles if config.share else ("policy",)

        _roles = ("policy", "critic")

    copy = from_card(Own, lambda: Own)
    assert "share is too large" in told(copy, {"share": 2.0}) and told(copy, {"share": 0.5}) == {"share": 0.5}
    assert copy().roles(copy.Config()) == ("policy", "critic")
    with pytest.raises(AssertionError, match="itself was asked"):
        from_card(Own).Config()


def test_what_no_card_can_hold_has_none():
    class Odd(Base):
        @dataclass
        class Config:
            place: object = field(default_factory=object)

    assert describe(Odd) is None


@pytest.mark.parametrize("kind", [int, str | None, list[str] | str, dict[str, str], tuple[int, ...], bool])
def test_types_come_back_from_a_card(kind):
    assert type_in(json.loads(json.dumps(type_out(kind)))) == kind


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {3}, object()])
def test_values_that_would_not_come_back_are_not_written(value):
    with pytest.raises(Unwritable):
        value_out(value)


# -- on disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes an algorithm in a file that imports its base from another; gives what --algo takes."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(default=1.0, name="Mine", base="carded_base"):
        (tmp_path / f"{base}.py").write_text(
            textwrap.dedent(f"""\
            from dataclasses import dataclass
            from zoo.contract.algorithm import Algorithm

            class Base(Algorithm):
                api_version = 2
                data = "preference"
                def loss(self, batch):
                    pass
                @dataclass
                class Config:
                    weight: float = {default}
            """)
        )
        (tmp_path / "mine.py").write_text(f"from {base} import Base\n\nclass {name}(Base):\n    'It is mine.'\n")
        sys.modules.pop(base, None)
        return f"{tmp_path}/mine.py:{name}"

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def weight(algo):
    return cards.described(algo)[1].Config().weight


def is_from_card(algo):
    return cards.real(cards.described(algo)[1]) is not cards.described(algo)[1]


def test_a_card_is_made_once_and_again_when_a_file_behind_it_changes(plugin):
    assert weight(plugin()) == 1.0 and is_from_card(plugin())
    assert weight(plugin(default=2.0)) == 2.0


def test_cards_depend_on_zoo_itself(plugin, monkeypatch):
    algo = plugin()
    assert weight(algo) == 1.0 and is_from_card(algo)
    monkeypatch.setattr(kept, "_here", lambda: ("3.11", "another zoo"))
    assert kept.read("algorithm", cards._place(algo)) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}, "place": []}', '{"files": {"/no/file": "a"}}'])
def test_a_damaged_card_is_made_again(plugin, tmp_path, content):
    algo = plugin()
    cards.described(algo)
    (file,) = (tmp_path / "cache" / "cards").iterdir()
    file.write_text(content)
    assert weight(algo) == 1.0 and json.loads(file.read_text())["card"]["name"] == "Mine"


def test_without_a_cache_the_algorithm_itself_answers(plugin, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    assert weight(plugin()) == 1.0


def test_a_broken_plugin_keeps_its_message(plugin, tmp_path):
    algo = plugin()
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(ZooError, match="ZeroDivisionError"):
        cards.described(algo)


# -- contributions -------------------------------------------------------------------------------------------------


def test_evaluations_are_chosen_from_a_card_as_from_the_plugins(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    real, known = outlook.evaluations(), outlook.evaluations()
    assert real.keys() == known.keys() and len(list((tmp_path / "cards").iterdir())) == 1
    text = "pass_at_k(k=8, data=questions.jsonl, reward=numeric)"
    found = [choose([text], one, "lm")[0] for one in (real, known)]
    assert found[0].options == found[1].options == {"k": 8, "data": "questions.jsonl", "reward": "numeric"}
    for wrong in ("pass_at_k(k=8)", "pass_at_k(kk=8)", "pass_at_k(k=some)", "pass_at", "pair_accuracy"):
        errors = []
        for one in (real, known):
            with pytest.raises(ZooError) as caught:
                choose([wrong], one, "lm")
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
    with pytest.raises(AssertionError, match="cannot be called"):
        known["perplexity"].run(None)


def test_what_is_no_module_has_no_card(tmp_path, monkeypatch):
    """A plugin that is an object of somebody's has no file that could change."""
    from zoo.contract.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def evals(self):
            return {"mine": Eval("Mine.", lambda subject, k: None)}

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(registry, "plugin_modules", lambda: ((("mine@test", Plugin()),), ()))
    assert list(contributed("evals", lambda one: one.run, lambda one: {}, lambda facts, run: run)) == ["mine"]
    assert not (tmp_path / "cards").exists()
