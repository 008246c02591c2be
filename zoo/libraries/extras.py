"""Packages that an extra brings: whether they are installed, and what to type to get them."""

from __future__ import annotations

import importlib.util

from zoo.errors import ZooError
from zoo.libraries import releases


def needs(module: str, extra: str, name: str) -> None:
    """Raises ZooError if the package of an extra is not installed. name: what needs it."""
    if is_missing(module):
        raise ZooError(
            f"{name} needs the package {module.replace('_', '-')}, which is not installed",
            installed_by(module, extra),
        )


def is_missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def installed_by(module: str, extra: str) -> str:
    """What to type to get the package of an extra, in the versions that zoo's requirements allow."""
    packages = releases.of_extra(extra) or (module.replace("_", "-"),)
    return "pip install " + " ".join(f'"{package}"' for package in packages)
