"""The rules of who may import whom, read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "zoo").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("[!_]*.py"))

# From the ground up; a module may import from its own layer and from those below.
LAYERS = [
    ("errors", "spelling", "numbers", "http", "paths", "libraries"),
    ("loss", "types", "ties", "rl", "groups", "hookspecs", "hook_arguments", "algorithm"),
    ("faults", "descriptions", "plugin_files", "plugin_manager", "registry"),
    ("options", "cards", "strict_yaml", "config", "runs", "scaffold"),
    ("data",),
    ("models",),
    ("rollout", "rewards", "judges"),
    # A bundled data set is a plugin like anybody's: it brings data, a reward and evaluations.
    ("evals", "data.starter", "data.harmless", "laboratory"),
    ("training",),
    ("report",),
    ("recipes", "comparison"),
    ("testing",),
    ("cli",),
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
LEVEL["__main__"] = LEVEL["cli"]
# What stands beside the layers: the face to plugins, and what the face of Python loads when it is asked for.
SURFACE = {"api"}
LATE = {("", "training"), ("runs", "models")}
"""Inside of functions only: the package's `train`, and a run's own `load`."""
LIGHT = [
    "errors", "spelling", "http", "hookspecs", "hook_arguments", "algorithm", "faults", "descriptions", "plugin_files",
    "plugin_manager", "registry", "options", "cards", "paths", "strict_yaml", "config", "runs", "scaffold", "cli",
]  # fmt: skip
HEAVY = {"torch", "lightning", "transformers", "peft", "datasets", "pydantic", "numpy", "safetensors", "tokenizers"}
ALGORITHMS = {
    "sft", "dpo", "kto", "ipo", "simpo", "orpo", "cpo", "bco", "ppo", "grpo", "rloo", "gspo", "dapo", "gkd", "rlaif",
    "cdpo", "slic", "reinforce",
}  # fmt: skip
FOREIGN = {"kto_tag"}
"""A column of another program's data sets."""


def module_of(path):
    """The dotted name below `zoo`: `models.roles`, `` for the package itself."""
    parts = list(path.relative_to(ROOT / "zoo").with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(module, inside of a function) of every import statement that runs; those for the type checker do not."""
    found = []

    def visit(node, late):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.extend((f"{node.module}.{alias.name}", late) for alias in node.names)
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def layer(module):
    """The name in LAYERS that a module below `zoo` belongs to: `models` for `models.roles.Policy`."""
    words = module.split(".")
    longest_first = (".".join(words[:count]) for count in range(len(words), 0, -1))
    return next((name for name in longest_first if name in LEVEL), words[0])


def part(dotted):
    """The layer that an imported name belongs to, None for other packages."""
    return layer(dotted.removeprefix("zoo.")) if dotted.startswith("zoo.") else None


def test_the_layers_name_every_module():
    names = {module_of(path).split(".")[0] for path in SOURCES} - {""}
    assert names - set(LEVEL) - SURFACE == set()


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_downwards_only(path):
    module = module_of(path)
    if layer(module) in SURFACE:
        return
    level = LEVEL.get(layer(module), -1)
    for target, late in imports(path):
        below = part(target)
        if below is None or below not in LEVEL or (late and (module, below) in LATE):
            continue
        assert LEVEL[below] <= level, f"{path.name} imports {target}, which stands above it"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_the_core_imports_no_plugin_and_not_the_face_it_shows_them(path):
    for target, _ in imports(path):
        assert target.split(".")[0] not in {"zoo_plugins", "zoo_recipes", "plugins"}, target
        if module_of(path).split(".")[0] not in SURFACE and "plugin" not in path.stem:
            assert part(target) not in SURFACE, target


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_a_bundled_algorithm_imports_the_api_torch_and_the_standard_library_only(path):
    for target, _ in imports(path):
        top = target.split(".")[0]
        assert target.startswith("zoo.api.") or top == "torch" or top in sys.stdlib_module_names, target


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p).split(".")[0] in LIGHT], ids=module_of)
def test_what_the_command_line_needs_to_answer_imports_nothing_heavy_at_module_level(path):
    for target, late in imports(path):
        assert late or target.split(".")[0] not in HEAVY, target
        assert late or part(target) not in {"types", "models", "training", "rollout", "evals", "api", "testing"}, target


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


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_algorithm_is_named_in_the_core(path):
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


@pytest.mark.parametrize("module", ["zoo", "zoo.cli.main", "zoo.registry", "zoo.config", "zoo.runs", "zoo.options"])
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
