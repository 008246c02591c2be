"""Finds recipes: those of installed packages, listed without importing anything, and files by their path.

A package registers its recipes with an entry point of the group `zoo.recipes`, whose value is a package with
`*.yaml` files. Listing reads only the files, and loads no schema and no plugin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.contract import descriptions, registry
from zoo.contract.hook_arguments import shown
from zoo.errors import ZooError, nearest
from zoo.options.strict_yaml import read_with_lines

SIZES = {
    "laptop": "the small experiment, in minutes on a CPU",
    "small": "the same on the default language model, in tens of minutes on a CPU",
    "gpu": "the same on a model of a billion weights, in an hour on one GPU",
    "full": "the paper's own scale",
}
"""The scales at which a recipe can have stages and claims; in the file, those of "full" stand at the top."""
Lines = dict[tuple[str | int, ...], tuple[str, int]]
"""Of every key of a file, by its path from the top: the file and the line (`extends` brings a second file)."""


def one_size(given: Mapping[str, bool]) -> str | None:
    """The size whose flag is given, None without one. Raises ZooError for several."""
    chosen = [size for size, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise ZooError(f"--{chosen[0]} and --{chosen[1]} are two sizes.", "Give one of them.")
    return chosen[0] if chosen else None


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe in the list. `error`: why it cannot be read; `verdict`: of its last run, or empty; `stale`:
    whether its experiment was changed since."""

    name: str
    package: str
    version: str
    path: str
    title: str = ""
    paper: str = ""
    algorithms: tuple[str, ...] = ()
    hardware: str = ""
    minutes: float | None = None
    verdict: str = ""
    date: str = ""
    stale: bool = False
    error: str = ""

    @property
    def full_name(self) -> str:
        """A name that is unique even if two packages use the same name."""
        return f"{self.name}@{self.package}"


def all_recipes() -> list[RecipeEntry]:
    """The recipes of all installed packages, by name; one that cannot be read has the reason as its `error`."""
    entries = [
        entry
        for package in registry.recipe_packages()
        for entry in _entries_of(package)
    ]  # fmt: skip
    return sorted(entries, key=lambda entry: (entry.name, entry.package))


def find_recipe(name: str) -> tuple[Path, str]:
    """The file of the recipe `name`, `name@package` or a path, and the package that it came with.

    Raises ZooError if there is none, or several with this name.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ZooError(f"There is no recipe at {name}.", "`zoo recipes` lists those that are installed.")
        return Path(name), ""
    places = [
        (file, package)
        for package in registry.recipe_packages()
        if (folder := _folder(package)[0]) is not None
        for file in _files(folder)
    ]
    matching = [
        (file, package.package)
        for file, package in places
        if name in (file.stem, f"{file.stem}@{package.package}")
    ]  # fmt: skip
    if not matching:
        names = sorted({file.stem for file, _ in places})
        raise ZooError(
            f"No recipe is called '{name}'.{nearest(name, names)}",
            f"Installed: {', '.join(names) or 'none'}. `zoo recipes` describes them; a path ends in .yaml.",
        )
    if len({file for file, _ in matching}) > 1:
        spellings = " or ".join(f"{name}@{package}" for _, package in matching)
        raise ZooError(f"Several packages have a recipe called '{name}'.", f"Choose one: {spellings}.")
    return matching[0]


def read(path: Path) -> tuple[dict[str, Any], Lines]:
    """A recipe's keys, completed by those of the recipe that it extends, and the place of each.

    Raises ZooError for a file that is not YAML, and for an `extends` that cannot be resolved.
    """
    content, lines = _read_one(path)
    name = content.get("extends")
    if not isinstance(name, str):
        return content, lines
    file, line = lines[("extends",)]
    try:
        base, base_lines = _read_one(_base_of(path, name))
    except ZooError as error:
        raise ZooError(f"{file}:{line}: {error.message}", error.hint) from None
    if "extends" in base:
        raise ZooError(
            f"{file}:{line}: '{name}' extends '{base['extends']}' itself, but only one level is allowed.",
            f"Extend '{base['extends']}', and write here what '{name}' changes.",
        )
    for size in SIZES:
        if isinstance(base.get(size), dict):
            # Findings are about the run of that recipe, not of this one.
            base[size] = {key: value for key, value in base[size].items() if key != "findings"}
    return _laid_over(base, content), base_lines | lines


def place(lines: Mapping[tuple[str | int, ...], tuple[str, int]], keys: Iterable[str | int], path: Path) -> str:
    """`file:line` of a path of keys, or of the nearest one above it that has a line."""
    path_of_keys = tuple(keys)
    for end in range(len(path_of_keys), 0, -1):
        if (line := lines.get(path_of_keys[:end])) is not None:
            return f"{line[0]}:{line[1]}"
    return str(path)


def _read_one(path: Path) -> tuple[dict[str, Any], Lines]:
    content, lines = read_with_lines(path)
    file = shown(str(path))
    return content, {key: (file, line) for key, line in lines.items()}


def _base_of(path: Path, name: str) -> Path:
    """The file that `extends: name` means; the same folder is searched first, so that it is complete by itself."""
    sibling = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    return sibling if sibling.is_file() and sibling != path else find_recipe(name)[0]


def _laid_over(base: Any, own: Any) -> Any:
    """Mappings are merged key by key; of anything else the last value counts."""
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return {**base, **{key: _laid_over(base.get(key), value) for key, value in own.items()}}


# -- listing -----------------------------------------------------------------------------------------------------


def _folder(package: registry.Entry) -> tuple[Path | None, str]:
    """The folder of a registered package of recipes, or why it cannot be found."""
    try:
        return descriptions.source_of(package.target).parent, ""
    except (ImportError, ValueError, AttributeError) as error:
        return None, f"{error}"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _entries_of(package: registry.Entry) -> list[RecipeEntry]:
    folder, error = _folder(package)
    if folder is None:
        return [RecipeEntry(package.name, package.package, package.version, package.target, error=error)]
    return [_entry(file, package) for file in _files(folder)]


def _entry(file: Path, package: registry.Entry) -> RecipeEntry:
    where: dict[str, Any] = {
        "name": file.stem,
        "package": package.package,
        "version": package.version,
        "path": str(file),
    }
    try:
        content, _ = read(file)
        facts = _facts(content)
    except ZooError as error:
        return RecipeEntry(**where, error=error.message)
    except (AttributeError, TypeError):
        return RecipeEntry(**where, error=f"it does not have the form of a recipe: zoo recipes {file.stem} says where")
    return RecipeEntry(**{**where, **facts, **last_result(file, content)})


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for the list from a recipe that is not validated."""
    paper, laptop = content.get("paper") or {}, content.get("laptop") or {}
    stages = [*(content.get("stages") or {}).values(), *(laptop.get("stages") or {}).values()]
    return {
        "title": str(content.get("title", "")),
        "paper": f"arXiv:{paper['arxiv']}" if paper.get("arxiv") else str(paper.get("url") or ""),
        "algorithms": tuple(dict.fromkeys(str(stage["algo"]) for stage in stages if stage.get("algo"))),
        "hardware": str(content.get("hardware", "")),
        "minutes": laptop.get("minutes"),
    }


def last_result(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict and date of the last run that is stored next to the recipe, and whether it is stale."""
    try:
        kept = json.loads((file.parent / "results" / f"{file.stem}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict):
        return {}
    stale = kept.get("digest") != experiment_digest(content.get("laptop") or {})
    return {**{key: str(kept.get(key, "")) for key in ("verdict", "date")}, "stale": stale}


def experiment_digest(content: Mapping[str, Any]) -> str:
    """A hash of what decides in a recipe's experiment: the stages with their options and evaluations, the rules of the
    claims, and the number of seeds. Texts for readers, such as findings, do not count."""
    rules = [{key: value for key, value in claim.items() if key not in ("says", "where")}
             for claim in content.get("claims") or () if "untested" not in claim]  # fmt: skip
    parts = [content.get(key) for key in ("common", "stages", "evals", "seeds")]
    return hashlib.sha256(json.dumps([*parts, rules], sort_keys=True, default=str).encode()).hexdigest()[:24]
