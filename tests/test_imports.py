"""The rules of who may import whom, read from the source."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tree

ROOT = Path(__file__).parent.parent
MODULES = tree.modules_of(ROOT)
SOURCES = list(MODULES.values())
IMPORTS = tree.imports_of(MODULES)
PLUGINS = sorted((ROOT / "plugins").glob("[!_]*.py"))

LIGHT = {
    "secrets", "errors", "limits", "terminal", "http", "paths", "contract", "options", "cards", "runs", "scaffold",
    "cli",
}  # fmt: skip
"""Rooms that answer before torch is loaded."""
HEAVY = {"torch", "lightning", "transformers", "peft", "datasets", "pydantic", "numpy", "safetensors", "tokenizers"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORDS = {"lm", "rm", "default"}
"""Names of algorithms that mean something else too: a kind of model, a command of the shell, what is taken unasked."""
OTHERS = {
    "apo", "cdpo", "cispo", "dapo", "gkd", "gspo", "kd", "nca", "nash-md", "raft", "reinforce", "rloo", "rpo", "rrhf",
    "slic", "spin", "sppo", "tdpo", "xpo",
}  # fmt: skip
"""Variants of bundled algorithms, and algorithms that others have."""
ALGORITHMS = set(PROJECT["entry-points"]["zoo.algorithms"]) - WORDS | OTHERS
NAMED = re.compile(rf"(?<![a-z0-9])({'|'.join(sorted(ALGORITHMS))})(?![a-z0-9])")
FOREIGN = {"kto_tag"}
"""A column of another program's data sets."""


def module_of(path):
    """The dotted name below `zoo`: `models.roles`, `` for the package itself."""
    return next(name for name, file in MODULES.items() if file == path)


def imports(path):
    """(module, inside of a function) of every import statement that runs; those for the type checker do not."""
    return list(tree.imported(ast.parse(path.read_text(encoding="utf-8"))))


def room(dotted):
    """The room that an imported name belongs to, None for other packages."""
    return tree.room_of(dotted.removeprefix("zoo.")) if dotted.startswith("zoo.") else None


# -- the tree --------------------------------------------------------------------------------------------------------


def test_every_module_stands_in_a_room():
    names = {tree.room_of(module) for module in MODULES} - tree.FACE
    assert names == set(tree.ROOMS)


def test_imports_go_downwards_only():
    inside = [one for one in IMPORTS if one.module not in tree.FACE]
    assert tree.upward(inside, list(tree.ROOMS)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert tree.circles(one for one in IMPORTS if one.module not in tree.FACE) == []


def test_an_upward_import_and_a_circle_are_seen():
    up, down = tree.Import("data.load", "models.names"), tree.Import("models.names", "data.load")
    assert tree.upward([up, down], list(tree.ROOMS)) == [up]
    assert tree.circles([up, down]) == [["data.load", "models.names"]] and tree.circles([up]) == []


@pytest.mark.parametrize("page", tree.PAGES)
def test_the_maps_are_those_of_the_list(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tree.written(page=text, block=tree.PAGES[page]()) == text, "run: python tools/tree.py --write"


@pytest.mark.parametrize(("outdated", "ends"), [([], ""), (["README.md"], "The map of README.md is out of date")])
def test_the_check_of_the_tree_ends_by_what_it_finds(monkeypatch, outdated, ends):
    monkeypatch.setattr(sys, "argv", ["tree.py", "--check"])
    monkeypatch.setattr(tree, "outdated", lambda: outdated)
    with pytest.raises(SystemExit) as ended:
        tree.main()
    assert str(ended.value.code or "").startswith(ends) and bool(ended.value.code) == bool(outdated)


# -- who may import what ---------------------------------------------------------------------------------------------


def test_the_core_imports_no_plugin_and_not_the_face_it_shows_them():
    for module, path in MODULES.items():
        for target, _ in imports(path):
            assert target.split(".")[0] not in {"zoo_plugins", "zoo_recipes", "plugins"}, f"{module}: {target}"
            if module not in tree.FACE and "plugin" not in path.stem:
                assert not target.startswith("zoo.api"), f"{module}: {target}"


def test_a_bundled_algorithm_imports_the_api_torch_and_the_standard_library_only():
    for path in PLUGINS:
        for target, _ in imports(path):
            top = target.split(".")[0]
            allowed = target.startswith("zoo.api.") or top == "torch" or top in sys.stdlib_module_names
            assert allowed, f"{path.stem}: {target}"


def test_what_the_command_line_needs_to_answer_imports_nothing_heavy_at_module_level():
    slow = {"values", "models", "training", "rollout", "evals", "testing", "processes", "randomness"}
    for module, path in MODULES.items():
        if tree.room_of(module) not in LIGHT:
            continue
        for target, late in imports(path):
            assert late or target.split(".")[0] not in HEAVY, f"{module}: {target}"
            assert late or (room(target) or "").split("/")[0] not in slow, f"{module}: {target}"
            assert late or not target.startswith("zoo.api"), f"{module}: {target}"


def words_of(path):
    """Every name and string of a module, docstrings included, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        texts = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(getattr(node, field, None), str):
                texts.append(getattr(node, field))
        for text in texts:
            yield getattr(node, "lineno", 0), text


def is_example(path, text):
    """Help that shows what to type has to name something: commands of the command line, and `zoo.train`."""
    where = str(path.relative_to(ROOT / "zoo"))
    return (where.startswith("cli/") and "zoo " in text) or (where == "training/run.py" and "zoo.train(" in text)


def named(text):
    """The first algorithm that a text names, whatever stands between its words; None without one."""
    found = NAMED.search(re.sub(r"[^a-z0-9]+", "-", text.lower()))
    return found and found[1]


def test_no_algorithm_is_named_in_the_core():
    for path in SOURCES:
        for line, text in words_of(path):
            if text in FOREIGN or is_example(path, text):
                continue
            assert not (name := named(text)), f"{path.name}:{line}: {name} in {text[:80]!r}"


@pytest.mark.parametrize("text", ["a DPO run", "online_dpo", "Online DPO", "constitutional/kept", "_ppo_"])
def test_a_name_is_seen_however_it_is_written(text):
    assert named(text)


@pytest.mark.parametrize("text", ["a default rm", "simpossible", "components", "lm_head"])
def test_words_that_only_look_like_a_name_are_none(text):
    assert not named(text)


# -- plugins -----------------------------------------------------------------------------------------------------------


def lines_of_functions(source):
    """Lines of all functions, without docstrings, blank lines and the checks of options."""
    counted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name != "__post_init__":
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            counted |= {*range(node.lineno, node.body[0].lineno)}
            counted |= {line for part in body for line in range(part.lineno, part.end_lineno + 1)}
    return sum(bool(line.strip()) for i, line in enumerate(source.splitlines(), start=1) if i in counted)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_the_mathematics_of_a_plugin_is_short(path):
    assert lines_of_functions(path.read_text(encoding="utf-8")) <= 120


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


IN_TURN = """
import importlib, json, sys
heavy, found = set(sys.argv[2:]), {}
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
    found[module] = sorted(heavy & sys.modules.keys())
print(json.dumps(found))
"""


def test_importing_the_command_line_loads_nothing_heavy():
    modules = ["zoo", "zoo.cli.main", "zoo.contract.registry", "zoo.options.config", "zoo.runs", "zoo.options.fields"]
    # typer itself takes pydantic when it is there.
    loaded = run(IN_TURN, json.dumps(modules), *sorted(HEAVY - {"pydantic"}))
    assert json.loads(loaded) == {module: [] for module in modules}


def test_importing_anything_prints_nothing():
    assert run("import zoo, zoo.cli.main, zoo.api, zoo.training.run, zoo.testing") == ""
