"""Finding plugins: by name, lazily, so that a broken one breaks only itself.

Algorithms are entry points of the group `zoo.algorithms`; everything else comes from modules in the group
`zoo.plugins`. Listing reads metadata and source text and never imports a plugin.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from zoo import hookspecs
from zoo.algorithm import Algorithm, validate
from zoo.errors import PluginError, ZooError, nearest
from zoo.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS

ALGORITHM_GROUP = "zoo.algorithms"
PLUGIN_GROUP = "zoo.plugins"
DEFAULT = "default"
"""The entry point of this name is an alias: it points at the algorithm trained when none is named."""


@dataclass(frozen=True)
class Entry:
    """A registered algorithm that has not been imported."""

    name: str
    target: str
    package: str
    version: str

    @property
    def full_name(self) -> str:
        """The name that is unique even when two packages use one name."""
        return f"{self.name}@{self.package}"


def _entries(group: str) -> list[Entry]:
    found = {
        Entry(point.name, point.value, _package(point), point.dist.version if point.dist else "?")
        for point in entry_points(group=group)
    }
    return sorted(found, key=lambda entry: (entry.name, entry.package))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def algorithms() -> list[Entry]:
    """All registered algorithms, by name; two entries of one name are a conflict, resolved as `name@package`."""
    return [entry for entry in _entries(ALGORITHM_GROUP) if entry.name != DEFAULT]


def default_name() -> str:
    """The name of the algorithm that `zoo train` uses when none is given."""
    aliases = [entry for entry in _entries(ALGORITHM_GROUP) if entry.name == DEFAULT]
    if len(aliases) > 1:
        packages = " and ".join(entry.package for entry in aliases)
        raise ZooError(f"No algorithm was named, and {packages} both register a default.", "Add --algo NAME.")
    entries = algorithms()
    for entry in entries:
        if aliases and (entry.target, entry.package) == (aliases[0].target, aliases[0].package):
            alone = [other.name for other in entries].count(entry.name) == 1
            return entry.name if alone else entry.full_name
    raise ZooError("No algorithm was named and no installed package registers a default.", "Add --algo NAME.")


def find(name: str) -> Entry:
    """The entry called `name` or `name@package`. Raises ZooError when unknown or ambiguous."""
    entries = algorithms()
    matching = [entry for entry in entries if name in (entry.name, entry.full_name)]
    if not matching:
        names = sorted({entry.name for entry in entries})
        raise ZooError(
            f"No algorithm is called '{name}'.{nearest(name, names)}",
            f"Installed: {', '.join(names) or 'none'}. `zoo algos` describes them; "
            "--algo ./file.py:Class loads one from a file.",
        )
    if len(matching) > 1:
        spellings = " or ".join(f"--algo {entry.full_name}" for entry in matching)
        raise ZooError(f"Several packages register an algorithm called '{name}'.", f"Choose one: {spellings}.")
    return matching[0]


def load_algorithm(name: str) -> tuple[str, type[Algorithm]]:
    """Import the algorithm `name` (or `./file.py:Class`); returns its short name and class.

    Raises ZooError when there is none, PluginError when the plugin itself is at fault.
    """
    if ".py" in name and (":" in name or name.endswith(".py")):
        return _load_file(name)
    entry = find(name)
    try:
        loaded = EntryPoint(entry.name, entry.target, ALGORITHM_GROUP).load()
    except Exception as error:
        raise PluginError(
            f"Algorithm '{entry.name}' of package {entry.package} {entry.version} cannot be imported "
            f"({entry.target}): {type(error).__name__}: {error}",
            f"Reinstall or repair {entry.package}; the other algorithms work without it.",
        ) from error
    return entry.name, validate(loaded, entry.name)


def _load_file(name: str) -> tuple[str, type[Algorithm]]:
    path, _, attribute = name.partition(":")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ZooError(f"There is no file {file} (from --algo {name}).", "Write --algo ./file.py:Class.")
    module = import_file(file)
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__
    }
    if not attribute and len(classes) == 1:
        attribute = next(iter(classes))
    if attribute not in classes:
        missing = f"no algorithm class '{attribute}'" if attribute else "not exactly one algorithm class"
        raise ZooError(
            f"{file} has {missing}.{nearest(attribute, classes)}",
            f"It has: {', '.join(classes) or 'none'}. Write --algo {path}:Class.",
        )
    return file.stem, validate(classes[attribute], attribute)


def import_file(file: Path) -> Any:
    """Import a Python file that belongs to no package. Raises PluginError when its code fails."""
    module_name = f"zoo_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ZooError(f"{file} is not a Python file.", "Write --algo ./file.py:Class.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise PluginError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


# -- reading without importing -----------------------------------------------------------------------------------


def describe(entry: Entry) -> dict[str, str]:
    """Description, data kind, paper and needs of an algorithm, from its source text alone.

    `error` says why when the source cannot be found or read.
    """
    module, _, class_name = entry.target.partition(":")
    try:
        source = _source_of(module)
        tree = ast.parse(source.read_text(encoding="utf-8"))
        node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    except Exception as error:
        return {"description": "", "data": "", "paper": "", "needs": "", "error": f"{type(error).__name__}: {error}"}
    found = {"description": (ast.get_docstring(node) or "").split("\n")[0], "data": "", "paper": "", "needs": "policy"}
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Name) and target.id in ("data", "paper", "needs"):
                found[target.id] = _literal(statement.value)
        elif isinstance(statement, ast.FunctionDef) and statement.name == "needs":
            found["needs"] = "depends on options"
    return found


def _literal(value: ast.expr | None) -> str:
    """A string or tuple of strings as it is written; `computed` for anything that only running would tell."""
    try:
        content = ast.literal_eval(value) if value is not None else ""
    except ValueError:
        return "computed"
    return content if isinstance(content, str) else ", ".join(map(str, content))


def _source_of(module: str) -> Path:
    """The file of a module, found without importing it or its parents. Raises ImportError."""
    first, *rest = module.split(".")
    spec: ModuleSpec | None = importlib.util.find_spec(first)
    name = first
    for part in rest:
        if spec is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or []))
    if spec is None or spec.origin is None:
        raise ImportError(f"module {module} is not there")
    return Path(spec.origin)


# -- the manager of a run ----------------------------------------------------------------------------------------


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, with an `Algorithm`'s methods as hooks and its own hooks reserved to it."""

    def __init__(self) -> None:
        super().__init__("zoo")
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        if isinstance(plugin, Algorithm):
            return {} if name in (*ALGORITHM_HOOKS, *LISTENER_HOOKS) else None
        options = super().parse_hookimpl_opts(plugin, name)  # type: ignore[arg-type]
        if options and name in ALGORITHM_HOOKS and not options.get("wrapper"):
            raise PluginError(
                f"Plugin {_plugin_name(plugin)} implements the hook '{name}', which only the chosen algorithm may.",
                f"To change what '{name}' returns, wrap it: @hookimpl(wrapper=True).",
            )
        return options

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin; a hook or hook argument that does not exist is the plugin's error."""
        try:
            registered = super().register(plugin, name)
            self.check_pending()
            return registered
        except pluggy.PluginValidationError as error:
            raise PluginError(f"Plugin {name or _plugin_name(plugin)} does not fit: {error}") from None


def _plugin_name(plugin: object) -> str:
    return str(getattr(plugin, "__name__", type(plugin).__name__))


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded."""

    name: str
    package: str
    version: str
    error: str


@cache
def plugin_modules() -> tuple[tuple[tuple[str, Any], ...], tuple[Broken, ...]]:
    """All modules of the group `zoo.plugins`: those that import and fit, and the others with the reason."""
    good, bad = [], []
    for entry in _entries(PLUGIN_GROUP):
        try:
            module = EntryPoint(entry.name, entry.target, PLUGIN_GROUP).load()
            PluginManager().register(module, entry.full_name)
            good.append((entry.full_name, module))
        except Exception as error:
            bad.append(Broken(entry.name, entry.package, entry.version, f"{type(error).__name__}: {error}"))
    return tuple(good), tuple(bad)


def manager(algorithm: Algorithm | None = None) -> PluginManager:
    """A manager with every loadable plugin, and `algorithm` as the chosen one."""
    plugins = PluginManager()
    for name, module in plugin_modules()[0]:
        plugins.register(module, name)
    if algorithm is not None:
        plugins.register(algorithm, "algorithm")
    return plugins


def contributions(plugins: PluginManager, hook: str) -> dict[str, Any]:
    """What all plugins contribute under one hook (`sources`, `rewards`, `evals`). Refuses a name given twice."""
    merged: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for implementation in getattr(plugins.hook, hook).get_hookimpls():
        for name, value in _given(implementation, hook).items():
            if name in merged:
                raise PluginError(
                    f"Both {owner[name]} and {implementation.plugin_name} register the {hook[:-1]} '{name}'.",
                    f"Uninstall one of them, or ask its authors to rename '{name}'.",
                )
            merged[name], owner[name] = value, implementation.plugin_name
    return merged


def _given(implementation: Any, hook: str) -> dict[str, Any]:
    try:
        given = implementation.function()
    except Exception as error:
        raise PluginError(
            f"Plugin {implementation.plugin_name} fails in {hook}(): {type(error).__name__}: {error}",
            "Repair or uninstall it.",
        ) from error
    if not isinstance(given, dict):
        raise PluginError(
            f"Plugin {implementation.plugin_name} returns {type(given).__name__} from {hook}(), not a dict by name."
        )
    return given
