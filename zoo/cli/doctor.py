"""`zoo doctor`: whether this installation is sound."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from zoo.cards import kept as cards
from zoo.cli.listings import Json
from zoo.contract import registry
from zoo.contract.hookspecs import ALGORITHM_HOOKS, LISTENER_HOOKS
from zoo.errors import ZooError
from zoo.guards.chosen import BUNDLED
from zoo.libraries import releases
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES
from zoo.terminal import Console, print_json

CONTRIBUTED = ("sources", "models", "evals", "rewards", "engines", "environments", "guards", "optimizers", "schedules")
OWN = {"guards": BUNDLED, "optimizers": OPTIMIZERS.bundled, "schedules": SCHEDULES.bundled}
"""What is bundled without being a plugin's."""


def doctor(as_json: Json = False) -> None:
    """Check the installation: libraries, device, sandbox, broken plugins and recipes, disk space."""
    import torch

    from zoo.models.default import NAME, cache_folder
    from zoo.models.precision import choose_precision
    from zoo.recipes.find import all_recipes
    from zoo.runs import environment

    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    precision, reason = choose_precision("auto", accelerator)
    cache = cache_folder()
    free = shutil.disk_usage(cache if cache.exists() else os.getcwd()).free / 2**30
    libraries = _libraries()
    problems = [problem for library in libraries for problem in library["problems"]]
    problems += _plugin_problems() + _recipe_problems()
    if free < 5:
        problems.append(f"Only {free:.1f} GiB of disk space are free for models ({cache}).")
    facts = {
        **environment(),
        "device": accelerator,
        "precision": f"{precision}: {reason}",
        "default_model": "in the cache" if (cache / "models" / NAME / "config.json").is_file() else "not there yet",
        "cache": str(cache),
        "free_gib": round(free, 1),
        "programs": _programs(),
        "algorithms": [entry.full_name for entry in registry.algorithms()],
        **{hook: sorted({*OWN.get(hook, ()), *_contributed(hook, problems)}) for hook in CONTRIBUTED},
        "listeners": _listening(LISTENER_HOOKS),
        "wrappers": _listening(ALGORITHM_HOOKS),
        "recipes": [entry.full_name for entry in all_recipes()],
        "libraries": libraries,
        "problems": problems,
    }
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            if key not in ("libraries", "problems"):
                shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
                Console().print(f"{key:14} {', '.join(shown) if isinstance(shown, list) else shown}")
        for library in libraries:
            Console().print(f"{'library':14} {_summary(library)}")
        for problem in problems:
            Console().print(problem, style="red")
        Console().print("" if problems else "No problems were found.")
    if problems:
        raise typer.Exit(1)


def _programs() -> str:
    """What holds the programs of the reward `code` on this machine."""
    from zoo.rewards.sandbox import lacking, remedy

    why = lacking()
    return f"nothing holds those of the reward code: {why}. {remedy()}." if why else "held by the kernel"


def _libraries() -> list[dict[str, Any]]:
    with Console(stderr=True).status("Checking the libraries") as status:
        found = []
        for name in releases.LIBRARIES:
            status.update(Text(f"Checking the libraries: {name}"))
            found.append(_library(name))
    return found


def _library(name: str) -> dict[str, Any]:
    """The versions of a library, the checks of what zoo relies on, and the problems with either."""
    from zoo.libraries import reliance

    facts = {"installed": releases.installed(name), "allowed": releases.allowed(name), "tested": releases.tested(name)}
    try:
        relied_on, broken = reliance.reliances(name), reliance.broken(name)
    except reliance.LibraryError as error:
        return {"name": name, **facts, "checks": [], "problems": [f"{error.message} {error.hint}"]}
    reasons = {failure.claim: failure.reason for failure in broken}
    checks = [{"claim": r.claim, "holds": r.claim not in reasons, "found": reasons.get(r.claim)} for r in relied_on]
    problems = [f"{failure.text()} {failure.remedy()}" for failure in broken]
    if releases.outside(name):
        problems.append(
            f"{name} {facts['installed']} is outside the range that zoo allows, {facts['allowed']}: "
            f"pip install '{name}{facts['allowed']}'"
        )
    return {"name": name, **facts, "checks": checks, "problems": problems}


def _summary(library: dict[str, Any]) -> str:
    holding, checks = sum(check["holds"] for check in library["checks"]), len(library["checks"])
    versions = "{name} {installed}, tested with {tested}, allowed {allowed}".format(**library)
    return f"{versions}: {holding} of {checks} checks hold"


def _contributed(hook: str, problems: list[str]) -> dict[str, Any]:
    """What plugins contribute to a hook; a plugin that fails is one more problem."""
    try:
        return registry.contributions(registry.manager(), hook)
    except ZooError as error:
        problems.append(error.message)
        return {}


def _listening(hooks: Sequence[str]) -> list[str]:
    """The plugins that implement some of these hooks, and which: they take part in every run."""
    hook = registry.manager().hook
    by_plugin: dict[str, list[str]] = {}
    for name in hooks:
        for implementation in getattr(hook, name).get_hookimpls():
            by_plugin.setdefault(implementation.plugin_name, []).append(name)
    return [f"{plugin}: {' '.join(names)}" for plugin, names in sorted(by_plugin.items())]


def _plugin_problems() -> list[str]:
    """The problems with installed plugins, one sentence each."""
    problems = [
        f"Plugin {broken.name} of {broken.package} {broken.version}: {broken.error}"
        for broken in registry.plugin_modules()[1]
    ]
    for entry in registry.algorithms():
        try:
            registry.load_algorithm(entry.full_name)
        except ZooError as error:
            problems.append(error.message)
    names = [entry.name for entry in registry.algorithms()]
    problems += [
        f"Several packages register '{name}': write --algo name@package."
        for name in {n for n in names if names.count(n) > 1}
    ]
    if not names:
        problems.append("No algorithm is registered: run `pip install -e .` again, so that entry points are read.")
    return problems


def _recipe_problems() -> list[str]:
    """The mistakes in the recipes of all packages, each with file and line."""
    from zoo.recipes.find import all_recipes

    problems, entries, behind = [], all_recipes(), _plugin_files()
    with Console(stderr=True).status("Reading the recipes") as status:
        for number, entry in enumerate(entries, start=1):
            status.update(Text(f"Checking the recipes: {number} of {len(entries)}, {entry.name}"))
            told = entry.error or _told_of(Path(entry.path), behind)
            of = f"Recipe {entry.name} of {entry.package} {entry.version}"
            problems += [f"{of}: {line}" for line in told.splitlines()]
    return problems


def _told_of(recipe: Path, behind: list[str]) -> str:
    """The mistakes in a recipe, "" for none; cached until the recipe, zoo or a plugin changes."""
    from zoo.recipes.check import check_recipe
    from zoo.recipes.load import load_recipe

    place = ["checked", str(recipe), *behind]
    if (kept := cards.read("recipe", place)) is not None:
        return str(kept)
    told = ""
    try:
        check_recipe(load_recipe(recipe), absent_files=True)
    except ZooError as error:
        told = error.message
    cards.write("recipe", place, told, [str(recipe), *behind])
    return told


def _plugin_files() -> list[str]:
    """The source files of all plugins that load, which a recipe may name."""
    classes = []
    for entry in registry.algorithms():
        with contextlib.suppress(ZooError):
            classes.append(registry.load_algorithm(entry.full_name)[1])
    modules = [module for _, module in registry.plugin_modules()[0]]
    return sorted({*cards.files_behind(*classes), *cards.files_of(*modules)})
