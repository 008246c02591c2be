"""The package that `zoo new-plugin` writes: a working algorithm whose mathematics you replace with your own.

Each kind of data has its own template, with a small loss that makes sense for it. The files are templates for
`string.Template`; this package never imports them as Python.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import os
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from zoo import __version__
from zoo.contract import registry
from zoo.contract.algorithm import DATA_KINDS
from zoo.errors import ZooError, nearest
from zoo.paths import unique_beside

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def new_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write the package `zoo-NAME` into `parent`, complete or not at all; returns its folder.

    Raises ZooError for an invalid or taken name, an unknown kind, or a folder that already exists.
    """
    check_name(name)
    if kind not in DATA_KINDS:
        raise ZooError(
            f"There is no kind of data '{kind}'.{nearest(kind, DATA_KINDS)}", f"Kinds: {', '.join(DATA_KINDS)}."
        )
    words = _words(name)
    folder = parent / words["package"]
    if folder.exists() or folder.is_symlink():
        raise ZooError(f"{folder} already exists.", "Choose another name, or another folder with --out.")
    contents = _contents(kind, {**words, "kind": kind, "train": train_command(name, kind)})
    if re.search(rf"^from zoo.* import .*\b{words['Class']}\b", contents[f"{words['module']}.py"], re.MULTILINE):
        raise ZooError(
            f"The name '{name}' gives a class {words['Class']}, which zoo.api already has.", "Choose another name."
        )
    try:
        with unique_beside(folder) as beside:
            beside.mkdir()
            for file, text in contents.items():
                (beside / file).write_text(text, encoding="utf-8")
            os.rename(beside, folder)
    except OSError as error:
        raise ZooError(f"{folder} cannot be written: {error.strerror}.", "Choose another folder with --out.") from error
    return folder


def check_name(name: str) -> None:
    """Raises ZooError if the name is invalid for an algorithm, module or package, or already taken."""
    if not NAME.fullmatch(name) or keyword.iskeyword(_words(name)["Class"]):
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789") or "mine"
        raise ZooError(
            f"'{name}' cannot be the name of an algorithm. Use lower-case letters and digits, starting with a letter, "
            "and join words with - or _.",
            f"For example: zoo new-plugin {plain if plain != name else 'mine'}",
        )
    taken = {entry.name: entry.full_name for entry in registry.algorithms()} | {registry.DEFAULT: "a reserved name"}
    if name in taken:
        raise ZooError(f"The name '{name}' is taken ({taken[name]}).", "Choose another name; `zoo algos` lists all.")
    words = _words(name)
    if importlib.util.find_spec(words["module"]) or _is_installed(words["package"]):
        raise ZooError(
            f"The name '{name}' is taken: a module {words['module']} or a package {words['package']} is installed.",
            "Choose another name.",
        )


def train_command(name: str, kind: str) -> str:
    """The command that trains the algorithm on the package's own rows."""
    # Prompts come without answers, so a reward must score the policy's own.
    return f"zoo train --algo {name} --data rows.jsonl{' --reward length' if kind == 'prompt' else ''}"


def _words(name: str) -> dict[str, str]:
    """The names for the templates."""
    identifier = name.replace("-", "_")
    return {
        "name": name,
        "identifier": identifier,
        "module": f"zoo_{identifier}",
        "package": f"zoo-{name.replace('_', '-')}",
        "Class": "".join(word.capitalize() for word in identifier.split("_")),
        "zoo_version": __version__,
    }


def _contents(kind: str, words: dict[str, str]) -> dict[str, str]:
    """`{file: text}` of the package."""
    templates = files(__package__) / "templates"
    sources: dict[str, Traversable] = {
        "pyproject.toml": templates / "pyproject.toml.txt",
        "README.md": templates / "README.md.txt",
        f"{words['module']}.py": templates / kind / "algorithm.py.txt",
        f"test_{words['module']}.py": templates / kind / "test.py.txt",
        "rows.jsonl": templates / kind / "rows.jsonl",
    }
    return {file: Template(source.read_text(encoding="utf-8")).substitute(words) for file, source in sources.items()}


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
        return True
    except importlib.metadata.PackageNotFoundError:
        return False
