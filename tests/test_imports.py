"""The rules of who may import whom, read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tree

ROOT = Path(__file__).parent.parent
MODULES = tree.modules_of(ROOT)
SOURCES = list(MODULES.values())
IMPORTS = tree.imports_of(MODULES)
PLUGINS = sorted((ROOT / "plugins").glob("[!_]*.py"))

LIGHT = {
    "errors", "http", "paths", "contract", "options", "cards", "runs", "scaffold", "cli",
}  # fmt: skip
"""Rooms that answer before torch is loaded."""
HEAVY = {"torch", "lightning", "transformers", "peft", "datasets", "pydantic", "numpy", "safetensors", "tokenizers"}
ALGORITHMS = {
    "sft", "dpo", "kto", "ipo", "simpo", "orpo", "cpo", "bco", "ppo", "grpo", "rloo", "gspo", "dapo", "gkd", "rlaif",
    "cdpo", "slic", "reinforce",
}  # fmt: skip
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


def test_no_algorithm_is_named_in_the_core():
    for path in SOURCES:
        for line, text in words_of(path):
            if text in FOREIGN or is_example(path, text):
                continue
            found = [name for name in re.split(r"[^a-z0-9]+", text.lower()) if name in ALGORITHMS]
            assert not found, f"{path.name}:{line}: {found[0]} in {text[:80]!r}"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


# typer itself takes pydantic when it is there.
LOADED = f"sorted(set({sorted(HEAVY - {'pydantic'})!r}) & sys.modules.keys())"


@pytest.mark.parametrize(
    "module",
    ["zoo", "zoo.cli.main", "zoo.contract.registry", "zoo.options.config", "zoo.runs", "zoo.options.fields"],
)
def test_importing_the_command_line_loads_nothing_heavy(module):
    assert run(f"import sys, {module}\nprint({LOADED})") == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["algos"], ["algos", "--json"], ["--version"]])
def test_help_and_listings_answer_without_loading_anything_heavy(arguments):
    code = (
        f"import sys\nsys.argv = ['zoo', *{arguments!r}]\nfrom zoo.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('heavy', {LOADED})"
    )
    assert run(code).endswith("heavy []\n")


def test_importing_anything_prints_nothing():
    assert run("import zoo, zoo.cli.main, zoo.api, zoo.training.run, zoo.testing") == ""
