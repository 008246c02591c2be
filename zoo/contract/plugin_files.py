"""Algorithms in files that belong to no package: `--algo ./file.py:Class`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from zoo.contract.algorithm import Algorithm, validate
from zoo.contract.faults import FILE_PREFIX, describe_error
from zoo.errors import PluginError, ZooError, nearest
from zoo.paths import typed_path


def is_file_name(name: str) -> bool:
    """Whether a name is a file: `./mine.py` or `./mine.py:Class`."""
    return ".py" in name and (":" in name or name.endswith(".py"))


def load_file(name: str) -> tuple[str, type[Algorithm]]:
    path, _, attribute = name.partition(":")
    file = typed_path(path)
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
    """Import a Python file that belongs to no package. Raises PluginError if its code fails."""
    module_name = f"{FILE_PREFIX}{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ZooError(f"{file} is not a Python file.", "Write --algo ./file.py:Class.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise PluginError(f"{file} cannot be imported: {describe_error(error)}") from error
    return module
