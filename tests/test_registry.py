"""Plugins are found by name, imported only when they are chosen, and a broken one breaks only itself."""

import sys
from dataclasses import dataclass, make_dataclass

import pytest

from zoo.contract import registry
from zoo.contract.algorithm import Algorithm, validate
from zoo.contract.hookspecs import hookimpl
from zoo.errors import PluginError, ZooError

ALGORITHM = '''
from dataclasses import dataclass
from zoo.contract.algorithm import Algorithm

class {name}(Algorithm):
    """{name} learns from pairs.

    More text."""

    api_version = 2
    paper = "arXiv:1234.56789"
    data = "preference"
    needs = ("policy", "reference")

    def loss(self, batch, models, config):
        return "loss of {name}"
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write an installed package: `install("pkg", "1.0", {"x.py": source}, algorithms={"name": "x:Class"})`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def write(package, version, files, algorithms=None, plugins=None):
        folder = site / f"{package}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = ["[zoo.algorithms]", *(f"{k} = {v}" for k, v in (algorithms or {}).items())]
        lines += ["[zoo.plugins]", *(f"{k} = {v}" for k, v in (plugins or {}).items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, source in files.items():
            (site / name).parent.mkdir(exist_ok=True)
            (site / name).write_text(source)
        registry.plugin_modules.cache_clear()

    yield write
    registry.plugin_modules.cache_clear()
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def simple(name="Novel"):
    return ALGORITHM.format(name=name)


# -- by name -----------------------------------------------------------------------------------------------------


def test_an_installed_algorithm_is_listed_and_loaded_by_its_name(install):
    install("strange", "1.2", {"strange_novel.py": simple()}, {"novel": "strange_novel:Novel"})
    entry = registry.find("novel")
    assert (entry.full_name, entry.version) == ("novel@strange", "1.2")
    assert "novel" in [e.name for e in registry.algorithms()]
    name, cls = registry.load_algorithm("novel")
    assert name == "novel" and issubclass(cls, Algorithm) and cls.data == "preference"


def test_listing_and_describing_import_nothing(install):
    source = "raise RuntimeError('imported')\n" + simple()
    install("strange", "1.0", {"strange_lazy/__init__.py": source, "strange_lazy/part.py": source},
            {"lazy": "strange_lazy.part:Novel"})  # fmt: skip
    entry = registry.find("lazy")
    assert registry.describe(entry) == {
        "description": "Novel learns from pairs.",
        "data": "preference",
        "paper": "arXiv:1234.56789",
        "needs": "policy, reference",
    }
    assert not any(name.startswith("strange_lazy") for name in sys.modules)


def test_a_description_copes_with_what_only_running_would_tell(install):
    source = (
        "from zoo.contract.algorithm import Algorithm\nPAPER = 'x'\n"
        "class Novel(Algorithm):\n    api_version = 2\n"
        "    paper = PAPER\n    data: str = 'feedback'\n    needs = 'policy'\n"
    )
    install("strange", "1.0", {"strange_odd.py": source}, {"odd": "strange_odd:Novel", "gone": "strange_gone:X"})
    described = registry.describe(registry.find("odd"))
    assert (described["paper"], described["data"], described["needs"]) == ("computed", "feedback", "policy")
    assert "strange_gone" in registry.describe(registry.find("gone"))["error"]


def test_an_unknown_name_gets_the_nearest_one_and_all_there_are(install):
    install("strange", "1.0", {"strange_novel.py": simple()}, {"novel": "strange_novel:Novel"})
    with pytest.raises(ZooError, match="No algorithm is called 'novell'. Did you mean 'novel'") as caught:
        registry.load_algorithm("novell")
    assert "novel" in caught.value.hint and "./file.py:Class" in caught.value.hint


def test_two_packages_with_one_name_are_told_apart_by_the_package(install):
    install("first", "1.0", {"first_novel.py": simple("First")}, {"novel": "first_novel:First"})
    install("second", "2.0", {"second_novel.py": simple("Second")}, {"novel": "second_novel:Second"})
    with pytest.raises(ZooError, match="Several packages register an algorithm called 'novel'") as caught:
        registry.load_algorithm("novel")
    assert caught.value.hint == "Choose one: --algo novel@first or --algo novel@second."
    assert registry.load_algorithm("novel@second")[1].__name__ == "Second"


def test_the_default_is_an_alias_and_not_an_algorithm_of_its_own():
    assert registry.DEFAULT not in [entry.name for entry in registry.algorithms()]
    assert registry.default_name() in [entry.name for entry in registry.algorithms()]
    with pytest.raises(ZooError, match="No algorithm is called 'default'"):
        registry.find("default")


def test_a_second_default_does_not_take_over_in_silence(install):
    install("a-strange", "1.0", {"strange_novel.py": simple()},
            {"novel": "strange_novel:Novel", "default": "strange_novel:Novel"})  # fmt: skip
    with pytest.raises(ZooError, match="a-strange and .* both register a default"):
        registry.default_name()


def test_the_default_is_found_although_another_package_uses_its_name(install):
    default = registry.default_name()
    install("strange", "1.0", {"strange_novel.py": simple()}, {default: "strange_novel:Novel"})
    name = registry.default_name()
    assert name.startswith(f"{default}@") and not name.endswith("@strange")
    assert registry.load_algorithm(name)[0] == default


# -- broken plugins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["import not_installed_anywhere", "raise SystemError('x')", "def broken(:"])
def test_a_plugin_that_cannot_be_imported_breaks_only_itself_and_says_whose_fault_it_is(install, source):
    install("strange", "1.2", {"strange_bad.py": source}, {"bad": "strange_bad:Bad"})
    with pytest.raises(PluginError, match="'bad' of package strange 1.2 cannot be imported") as caught:
        registry.load_algorithm("bad")
    assert "repair strange" in caught.value.hint
    assert registry.load_algorithm(registry.default_name())


def test_a_broken_plugin_module_is_left_out_with_its_reason(install):
    install("strange", "1.2", {"strange_bad.py": "import not_installed_anywhere"}, plugins={"bad": "strange_bad"})
    good, bad = registry.plugin_modules()
    assert [(b.name, b.package, b.version) for b in bad] == [("bad", "strange", "1.2")]
    assert "not_installed_anywhere" in bad[0].error and good
    assert registry.contributions(registry.manager(), "sources"), "the bundled ones still work"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("@hookimpl\ndef evalls():\n    return {}", "there is no hook 'evalls'. Did you mean 'evals'"),
        (
            "@hookimpl\ndef step_end(stepp):\n    pass",
            "strange_hooks.py, line 3: step_end of plugin strange_hooks takes 'stepp', which is not an argument of "
            "this hook. Did you mean 'step'?",
        ),
        ("@hookimpl\ndef loss(batch):\n    pass", "only the chosen algorithm may"),
        ("@hookimpl\ndef collate(records):\n    pass", "only the chosen algorithm may"),
    ],
)
def test_a_misspelt_or_reserved_hook_of_a_module_is_refused(install, source, reason):
    install("strange", "1.0", {"strange_hooks.py": f"from zoo.contract.hookspecs import hookimpl\n\n{source}\n"},
            plugins={"hooks": "strange_hooks"})  # fmt: skip
    (broken,) = registry.plugin_modules()[1]
    assert broken.package == "strange" and reason in broken.error


# -- what an algorithm must be -----------------------------------------------------------------------------------


class Good(Algorithm):
    """Fits."""

    api_version = 2
    data = "preference"

    def loss(self, batch, models, config):
        return "own loss"


def changed(**attributes):
    return type("Changed", (Good,), attributes)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (dict, "is not a subclass of zoo.api.Algorithm"),
        (changed(api_version=1), "written for plugin API 1, but this zoo has 2"),
        (changed(api_version=3), "written for plugin API 3, but this zoo has 2"),
        (changed(data="preferences"), "data = 'preferences' is not one of .* Did you mean 'preference'"),
        (changed(data=""), "data = '' is not one of"),
        (changed(Config=type("Config", (), {})), "its Config is not a dataclass"),
        (type("NoLoss", (Algorithm,), {"data": "text", "api_version": 2}), "it has no method `loss`"),
        (type("Unsaid", (Algorithm,), {"data": "text"}), "does not say which plugin API it is written for"),
        (changed(Config=make_dataclass("Config", [("lr", float, 1.0)])), "its option 'lr' is an option of the core"),
        (changed(Config=make_dataclass("Config", [("teacher", str, "")])), "'teacher' is an option of the core, or"),
        (changed(needs=("policy", "referense")), "an unknown role 'referense'. Did you mean 'reference'"),
        (changed(mesure=lambda self: None), "its method `mesure` is not a hook. Did you mean 'measure'"),
        (changed(step_ends=lambda self: None), "not a hook. Did you mean 'step_end'"),
    ],
)
def test_a_class_that_cannot_work_is_refused_with_the_reason(cls, reason):
    with pytest.raises(PluginError, match=reason):
        validate(cls, "changed")


def test_helpers_with_an_underscore_and_unlike_names_are_fine():
    assert validate(changed(_losses=lambda self: None, margin=lambda self: None), "x")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            "def loss(self, batch, modles):",
            "takes 'modles', which is not an argument of this hook. Did you mean 'models'?",
        ),
        ("def loss(self, batch, config=None):", "gives 'config' a default"),
        ("def loss(self, batch, **rest):", "takes '**rest', which is not an argument"),
        ("def loss(self, batch, *, config):", "takes 'config', which is not an argument"),
        ("@staticmethod\n    def loss(self, batch):", "takes 'self', which is not an argument"),
    ],
)
def test_a_wrong_hook_argument_is_named_with_its_file_line_and_method(tmp_path, loss, says):
    file = tmp_path / "odd.py"
    file.write_text(simple().partition("    def loss")[0] + f"    {loss}\n        return None\n")
    with pytest.raises(PluginError) as caught:
        registry.load_algorithm(f"{file}:Novel")
    line = 1 + file.read_text().splitlines().index(f"    {loss.splitlines()[0]}")
    assert caught.value.message.startswith(f"{file}, line {line}: Novel.loss {says}")
    assert caught.value.hint.startswith("loss may take: batch, models, config, step;")


def test_a_misspelt_argument_of_a_listener_is_refused_too():
    with pytest.raises(PluginError, match=r"Changed.step_end takes 'metrix'.* Did you mean 'metrics'"):
        validate(changed(step_end=lambda self, metrix: None), "x")


def test_needs_may_depend_on_the_options():
    cls = changed(needs=lambda self, config: ("policy", "reference") if config else ("policy",))
    assert validate(cls, "x")().roles(True) == ("policy", "reference")
    assert cls().roles(False) == ("policy",)


def test_the_state_named_in_saved_goes_through_a_checkpoint():
    class Adaptive(Good):
        saved = ("coefficient",)

        def __init__(self):
            self.coefficient = 0.1

    before, after = Adaptive(), Adaptive()
    before.coefficient = 0.7
    after.load_state(before.state())
    assert after.coefficient == 0.7 and before.state() == {"coefficient": 0.7}


# -- from a file -------------------------------------------------------------------------------------------------


def test_an_unpackaged_file_is_loaded_by_class_or_alone(tmp_path):
    file = tmp_path / "my_novel.py"
    file.write_text(simple("One") + simple("Two"))
    name, cls = registry.load_algorithm(f"{file}:Two")
    assert (name, cls.__name__) == ("my_novel", "Two")
    with pytest.raises(ZooError, match="not exactly one algorithm class") as caught:
        registry.load_algorithm(str(file))
    assert caught.value.hint.startswith("It has: One, Two.")
    with pytest.raises(ZooError, match="no algorithm class 'Twoo'. Did you mean 'Two'"):
        registry.load_algorithm(f"{file}:Twoo")
    file.write_text(simple("Only"))
    assert registry.load_algorithm(str(file))[1].__name__ == "Only"


def test_a_missing_or_failing_file_is_named(tmp_path):
    with pytest.raises(ZooError, match="There is no file .*missing.py"):
        registry.load_algorithm(f"{tmp_path}/missing.py:X")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(PluginError, match="bad.py cannot be imported: ZeroDivisionError"):
        registry.load_algorithm(f"{tmp_path}/bad.py:X")
    assert "zoo_file_bad" not in sys.modules


def test_options_of_a_file_have_their_help(tmp_path):
    from zoo.options.fields import options_of

    file = tmp_path / "with_options.py"
    file.write_text(
        simple() + '\n    @dataclass\n    class Config:\n        beta: float = 0.1\n        """Scale β."""\n'
    )
    _, cls = registry.load_algorithm(str(file))
    assert [(o.name, o.help) for o in options_of(cls.Config)] == [("beta", "Scale β.")]


# -- hooks -------------------------------------------------------------------------------------------------------


def call_loss(plugins):
    return plugins.hook.loss(batch=None, models=None, config=None, step=0)


def test_the_methods_of_the_chosen_algorithm_are_the_hooks_and_take_only_the_arguments_they_want():
    assert call_loss(registry.manager(Good())) == "own loss"
    assert registry.manager(Good()).hook.collate(records=[], tokenizer=None, config=None, max_length=1) is None


def test_another_plugin_may_wrap_the_loss():
    class Doubling:
        @hookimpl(wrapper=True)
        def loss(self, config):
            result = yield
            return f"twice {result}"

    plugins = registry.manager(Good())
    plugins.register(Doubling(), "doubling")
    assert call_loss(plugins) == "twice own loss"


def test_another_plugin_may_not_replace_the_loss():
    class Hijack:
        @hookimpl(tryfirst=True)
        def loss(self, batch):
            return "stray"

    plugins = registry.manager(Good())
    with pytest.raises(PluginError, match="Hijack implements the hook 'loss', which only the chosen") as caught:
        plugins.register(Hijack(), "hijack")
    assert "wrapper=True" in caught.value.hint
    assert call_loss(plugins) == "own loss"


def test_an_algorithm_listens_like_any_plugin():
    class Listening(Good):
        def step_end(self, step, metrics):
            self.heard = (step, metrics["loss"])

    algorithm = Listening()
    registry.manager(algorithm).hook.step_end(run=None, step=3, metrics={"loss": 0.5})
    assert algorithm.heard == (3, 0.5)


def plugins_with(*given):
    plugins = registry.PluginManager()
    for i, plugin in enumerate(given):
        plugins.register(plugin, f"plugin{i}")
    return plugins


def contributor(value):
    @dataclass
    class Plugin:
        @hookimpl
        def rewards(self):
            return value() if callable(value) else value

    return Plugin()


def test_contributions_of_all_plugins_are_put_together():
    plugins = plugins_with(contributor({"a": 1}), contributor({"b": 2}))
    assert registry.contributions(plugins, "rewards") == {"a": 1, "b": 2}


def test_a_name_contributed_twice_is_a_conflict_of_two_named_plugins():
    plugins = plugins_with(contributor({"same": 1}), contributor({"same": 2}))
    with pytest.raises(PluginError, match="Both plugin. and plugin. register the reward 'same'"):
        registry.contributions(plugins, "rewards")


def test_a_contribution_that_fails_or_is_no_dict_is_the_plugins_fault():
    with pytest.raises(PluginError, match=r"Plugin plugin0 fails in rewards\(\): ZeroDivisionError"):
        registry.contributions(plugins_with(contributor(lambda: 1 / 0)), "rewards")
    with pytest.raises(PluginError, match=r"Plugin plugin0 returns list from rewards\(\)"):
        registry.contributions(plugins_with(contributor([])), "rewards")


def test_every_hook_is_documented_and_sorted_into_one_kind():
    from zoo.contract import hookspecs

    specs = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "zoo_spec")}
    assert all((value.__doc__ or "").strip() for value in specs.values())
    contributed = {
        "sources",
        "models",
        "rewards",
        "evals",
        "engines",
        "environments",
        "guards",
        "optimizers",
        "schedules",
    }
    assert set(specs) == {*hookspecs.ALGORITHM_HOOKS, *hookspecs.LISTENER_HOOKS, *contributed}
