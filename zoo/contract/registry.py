"""Finds plugins by name, lazily, so that a broken plugin affects only itself.

Algorithms are entry points of the group `zoo.algorithms`; everything else comes from modules in the group
`zoo.plugins`. Listing reads metadata and source text and never imports a plugin.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from zoo.contract import descriptions
from zoo.contract.algorithm import Algorithm, validate
from zoo.contract.faults import describe_error
from zoo.contract.lent import PREFIX, is_lent, lent
from zoo.contract.plugin_files import is_file_name, load_file
from zoo.contract.plugin_manager import PluginManager, contributions
from zoo.errors import PluginError, ZooError, nearest

__all__ = [
    "Broken",
    "Entry",
    "PluginManager",
    "algorithms",
    "config_packages",
    "contributions",
    "default_name",
    "describe",
    "find",
    "load_algorithm",
    "manager",
    "packages",
    "plugin_modules",
    "recipe_packages",
]

ALGORITHM_GROUP = "zoo.algorithms"
PLUGIN_GROUP = "zoo.plugins"
RECIPE_GROUP = "zoo.recipes"
CONFIG_GROUP = "zoo.configs"
DEFAULT = "default"
"""The entry point of this name is an alias for the algorithm to train if none is named."""


@dataclass(frozen=True)
class Entry:
    """A registered algorithm, plugin module or package of recipes that has not been imported."""

    name: str
    target: str
    package: str
    version: str

    @property
    def full_name(self) -> str:
        """A name that is unique even if two packages use the same name."""
        return f"{self.name}@{self.package}"


def _entries(group: str) -> list[Entry]:
    # Reading all metadata takes longer than a step of a small model; it changes only with these folders.
    return list(_entries_of(group, tuple((place, _changed(place)) for place in sys.path)))


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _entries_of(group: str, places: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    entries = {
        Entry(point.name, point.value, _package(point), point.dist.version if point.dist else "?")
        for point in entry_points(group=group)
    }
    return tuple(sorted(entries, key=lambda entry: (entry.name, entry.package)))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def algorithms() -> list[Entry]:
    """All registered algorithms, by name; `name@package` tells two entries with the same name apart."""
    return [entry for entry in _entries(ALGORITHM_GROUP) if entry.name != DEFAULT]


def recipe_packages() -> list[Entry]:
    """The registered packages of recipes; none is imported."""
    return _entries(RECIPE_GROUP)


def config_packages() -> list[Entry]:
    """The registered packages of tables for other programs' config files; none is imported."""
    return _entries(CONFIG_GROUP)


def packages() -> dict[str, str]:
    """The version of each package with a plugin."""
    entries = [*_entries(ALGORITHM_GROUP), *_entries(PLUGIN_GROUP)]
    return {entry.package: entry.version for entry in entries}


def default_name() -> str:
    """The name of the algorithm that `zoo train` uses if none is given."""
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
    """The entry called `name` or `name@package`. Raises ZooError if it is unknown or ambiguous."""
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

    Raises ZooError if there is none, PluginError if the plugin itself is faulty.
    """
    if is_file_name(name):
        return load_file(name)
    if is_lent(name):
        return name.removeprefix(PREFIX), validate(lent(name), name.removeprefix(PREFIX))
    entry = find(name)
    try:
        loaded = EntryPoint(entry.name, entry.target, ALGORITHM_GROUP).load()
    except Exception as error:
        raise PluginError(
            f"Algorithm '{entry.name}' of package {entry.package} {entry.version} cannot be imported "
            f"({entry.target}): {describe_error(error)}",
            f"Reinstall or repair {entry.package}; the other algorithms work without it.",
        ) from error
    return entry.name, validate(loaded, entry.name)


def describe(entry: Entry) -> dict[str, str]:
    """Description, data kind, paper and needs of an algorithm, without importing it; `error` if that fails."""
    return descriptions.describe(entry.target)


# -- the manager of a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded."""

    name: str
    package: str
    version: str
    error: str


@cache
def plugin_modules() -> tuple[tuple[tuple[str, Any], ...], tuple[Broken, ...]]:
    """All modules of the group `zoo.plugins`: the loadable ones, and the broken ones with the reason."""
    good, bad = [], []
    for entry in _entries(PLUGIN_GROUP):
        try:
            module = EntryPoint(entry.name, entry.target, PLUGIN_GROUP).load()
            PluginManager().register(module, entry.full_name)
            good.append((entry.full_name, module))
        except Exception as error:
            bad.append(Broken(entry.name, entry.package, entry.version, describe_error(error)))
    return tuple(good), tuple(bad)


def manager(algorithm: Algorithm | None = None) -> PluginManager:
    """A manager with every loadable plugin, and `algorithm` as the chosen one."""
    plugins = PluginManager()
    for name, module in plugin_modules()[0]:
        plugins.register(module, name)
    if algorithm is not None:
        plugins.register(algorithm, "algorithm")
    return plugins
