"""Descriptions of algorithms, read from their source text, so that listing installed ones imports nothing."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def describe(target: str) -> dict[str, str]:
    """Description, data kind, paper and needs of an algorithm, from its source text alone.

    target: `module:Class`. `error` says why if the source cannot be found or read.
    """
    module, _, class_name = target.partition(":")
    try:
        source = source_of(module)
        tree = ast.parse(source.read_text(encoding="utf-8"))
        node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    except Exception as error:
        return {"description": "", "data": "", "paper": "", "needs": "", "error": f"{type(error).__name__}: {error}"}
    facts = {"description": (ast.get_docstring(node) or "").split("\n")[0], "data": "", "paper": "", "needs": "policy"}
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            name = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(name, ast.Name) and name.id in ("data", "paper", "needs"):
                facts[name.id] = _literal(statement.value)
        elif isinstance(statement, ast.FunctionDef) and statement.name == "needs":
            facts["needs"] = "depends on options"
    return facts


def _literal(value: ast.expr | None) -> str:
    """A literal string or tuple of strings; `computed` for any other expression."""
    try:
        content = ast.literal_eval(value) if value is not None else ""
    except ValueError:
        return "computed"
    return content if isinstance(content, str) else ", ".join(map(str, content))


def source_of(module: str) -> Path:
    """The file of a module (for a package its __init__.py), found without importing it or its parents.

    Raises ImportError.
    """
    first, *rest = module.split(".")
    spec: ModuleSpec | None = importlib.util.find_spec(first)
    name = first
    for part in rest:
        if spec is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or []))
    if spec is None or spec.origin is None:
        raise ImportError(f"there is no module {module}")
    return Path(spec.origin)
