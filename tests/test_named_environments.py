"""From the text of `--environment` to a pool, and what is told of a slip before anything is started."""

import json

import pytest
from tiny_runs import cli

from zoo.environments import Environment, Turn
from zoo.environments import named as module
from zoo.environments.named import check_environment, make_pool
from zoo.errors import PluginError, ZooError

SHOP = '''
from zoo.api import Environment, Turn


class Shop(Environment):
    """Sells things."""

    def __init__(self, factor: float = 1.0, *, name="corner", owner: str | None = "me"):
        self.said = (factor, name, owner)

    def step(self, message):
        return Turn([{"role": "user", "content": repr(self.said)}])


class Any(Environment):
    def __init__(self, **options):
        pass


class Needy(Environment):
    def __init__(self, key: str):
        raise ValueError(f"no {key}")


class Plain(Environment):
    pass


def shop(count: int):
    return Shop(count)
'''


class Quiz(Environment):
    """Asks."""

    def __init__(self, level: int, seconds: float = 1.0):
        self.level = level

    def step(self, message):
        return Turn(done=True, reward=float(self.level))


NAMED = {"quiz": Quiz}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs").mkdir()
    for name in ("shop.py", "envs/my-shop.py"):
        (tmp_path / name).write_text(SHOP)
    (tmp_path / "one.py").write_text("class One: pass\n")
    (tmp_path / "broken.py").write_text("class (\n")
    (tmp_path / "lost.py").write_text("import nowhere_at_all\n\n\nclass Lost: pass\n")
    return tmp_path


def first_turn(spec):
    pool = make_pool(spec, NAMED, 60.0)
    try:
        episode = pool.start({}, 0)
        episode.receive()
        episode.step({"role": "assistant", "content": "?"})
        return episode.receive()
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("./shop.py:Shop", (1.0, "corner", "me")),
        ("shop.py:Shop(factor=2, name=big one, owner=none)", (2.0, "big one", None)),
        (" shop:Shop ( factor = 2 ) ", (2.0, "corner", "me")),
        ("envs/my-shop.py:shop(count=3)", (3, "corner", "me")),
    ],
)
def test_a_class_in_a_file_gets_its_options_in_their_types(place, spec, said):
    check_environment(spec, NAMED)
    assert first_turn(spec).messages == [{"role": "user", "content": repr(said)}]


def test_an_absolute_path_is_taken_too(place):
    spec = f"{place}/shop.py:Shop"
    check_environment(spec, NAMED)
    assert first_turn(spec).messages


def test_a_contributed_class_gets_its_options_in_their_types():
    check_environment("quiz(level=3)", NAMED)
    assert first_turn("quiz(level=3)") == Turn([], True, 3.0)


SLIPS = [
    ("quizz", "No environment is called 'quizz'. Did you mean 'quiz'?", "Installed: quiz."),
    ("quiz(levl=3)", "The environment 'quiz' has no option 'levl'. Did you mean 'level'?", "level, seconds"),
    ("quiz", "The environment 'quiz' needs level.", "Write quiz(level=…)."),
    ("quiz(level=high)", "The environment 'quiz', option level = high: ", ""),
    ("quiz(level=3", "The environment 'quiz(level=3' cannot be read.", "./shop.py:Shop(factor=2)"),
    ("./shop.py", "'./shop.py' does not say which class is the environment.", "Write ./shop.py:CLASS."),
    ("one.py:", "'one.py:' does not say which class is the environment.", "Write one.py:One."),
    ("./none.py:Shop", "There is no file ./none.py.", "Check the path."),
    ("./none.py", "There is no file ./none.py.", "Check the path."),
    ("broken.py:Shop", "'broken.py' cannot be imported: ", "./file.py:class"),
    ("shop.py:Shpo", "shop.py has no class 'Shpo'. Did you mean 'Shop'?", "It has: "),
    ("nowhere.at.all:Shop", "'nowhere.at.all' cannot be imported", "module:class"),
    ("shop.py:Shop(nam=x)", "The environment 'shop.py:Shop' has no option 'nam'. Did you mean 'name'?", "factor, name"),
    ("shop.py:shop(cont=x)", "The environment 'shop.py:shop' has no option 'cont'. Did you mean 'count'?", "count"),
]


@pytest.mark.parametrize(("spec", "message", "hint"), SLIPS)
def test_a_slip_is_told_before_anything_is_started(place, monkeypatch, spec, message, hint):
    monkeypatch.setattr(module, "Pool", None)
    for refuse in (check_environment, lambda *given: make_pool(*given, 60.0)):
        with pytest.raises(ZooError) as told:
            refuse(spec, NAMED)
        assert message in told.value.message and hint in told.value.hint


@pytest.mark.parametrize("spec", ["shop.py:Any(whatever=1)", "lost.py:Lost(x=1)", "shop.py:Plain(x=1)"])
def test_what_the_source_does_not_tell_is_left_to_the_process(place, spec):
    check_environment(spec, NAMED)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (
            "lost.py:Lost",
            ZooError,
            "'lost.py' cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("shop.py:Needy", PluginError, "missing 1 required positional argument: 'key'"),
        ("shop.py:Needy(key=key)", PluginError, "cannot be made: ValueError: no key"),
        ("one.py:One", PluginError, "not an Environment"),
    ],
)
def test_one_that_cannot_be_made_is_refused(place, spec, kind, message):
    with pytest.raises(kind) as told:
        make_pool(spec, NAMED, 60.0)
    assert message in told.value.message


def test_the_command_lists_them_and_names_the_nearest():
    assert isinstance(json.loads(cli("environments", "--json")[1]), list)
    status, _, error = cli("environments", "nothing")
    assert status == 2 and "No environment is called 'nothing'." in error
