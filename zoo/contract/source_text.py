"""`module:name` and `./file.py:name`, looked up in their source text, so that nothing is imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from zoo.contract.descriptions import source_of
from zoo.errors import nearest
from zoo.paths import typed_path


class Problem(NamedTuple):
    """Why something cannot be there. guess: as `nearest` gives it."""

    message: str
    hint: str = ""
    guess: str = ""


def place_of(name: str) -> str:
    """The full path of a file (also of `mine.py` for `mine`, if no module `mine` is installed); else the module."""
    path = typed_path(name)
    if not path.is_file() and name.isidentifier() and find_spec(name) is None:
        path = Path(f"{name}.py")
    return str(path.resolve()) if path.is_file() else name


def source_tree(written: str, what: str) -> ast.Module | Problem | None:
    """The source of a module or file as a tree; None if it is not written in Python.

    what: what is looked for in it ("function"), for the hint.
    """
    place = place_of(written)
    if written.endswith(".py") and not Path(place).is_file():
        return Problem(f"There is no file {written}", "Check the path.")
    try:
        file = Path(place) if Path(place).is_file() else source_of(place)
        return ast.parse(file.read_bytes()) if file.suffix == ".py" else None
    except (ImportError, ValueError, OSError, SyntaxError) as error:
        return Problem(f"'{written}' cannot be imported: {error}", f"Give module:{what} or ./file.py:{what}.")


def problem_of(name: str, what: str) -> Problem | None:
    """Why `module:name` or `./file.py:name` cannot be there, None if it can be."""
    written, _, attribute = name.rpartition(":")
    tree = source_tree(written, what)
    if not isinstance(tree, ast.Module):
        return tree
    names = _defined(tree)
    if names is None or attribute in names:
        return None
    kind = ast.ClassDef if what == "class" else ast.FunctionDef
    here = [node.name for node in tree.body if isinstance(node, kind)]
    has = f"It has: {', '.join(here)}." if here else ""
    return Problem(f"{written} has no {what} '{attribute}'", guess=nearest(attribute, names), hint=has)


def _defined(tree: ast.Module) -> list[str] | None:
    """The names that a module defines at its top level; None if it may define more."""
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return None
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "exec"):
            return None
    return names
