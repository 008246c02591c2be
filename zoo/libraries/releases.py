"""Versions of the libraries underneath: installed, allowed by zoo's own requirements, and tested."""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "post-training-zoo"
LIBRARIES = ("torch", "lightning", "transformers", "peft", "datasets", "huggingface-hub")
"""The libraries whose internals zoo uses."""


def installed(library: str) -> str:
    """The installed version, without a build label; "none" if it is not installed."""
    try:
        return metadata.version(library).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


@cache
def allowed(library: str) -> str:
    """The range in zoo's requirements: `>=5.17,<5.25`; "" if zoo is not installed as a package."""
    try:
        required = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return ""
    for line in required:
        if (found := re.match(r"([\w.-]+)\s*([^;]*)", line)) and _same(found[1], library) and "extra ==" not in line:
            return ",".join(sorted(found[2].replace(" ", "").split(","), reverse=True))
    return ""


@cache
def of_extra(extra: str) -> tuple[str, ...]:
    """What an extra installs: `("math-verify>=0.8",)`; empty if zoo is not installed with this extra as a package."""
    try:
        required = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return ()
    parts = [line.partition(";") for line in required]
    return tuple(
        name.strip() for name, _, marker in parts if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker)
    )


@cache
def tested(library: str) -> str:
    """The version in the lock, with which zoo's whole test suite passed."""
    for line in lock().splitlines():
        name, _, version = line.partition(";")[0].strip().partition("==")
        if _same(name, library):
            return version
    return ""


def lock() -> str:
    """The lock: a pip constraints file."""
    return (files("zoo.libraries") / "lock.txt").read_text(encoding="utf-8")


def outside(library: str) -> bool:
    """Whether the installed version is outside the allowed range."""
    from packaging.specifiers import SpecifierSet

    version = installed(library)
    return version != "none" and not SpecifierSet(allowed(library)).contains(version, prereleases=True)


def has_architecture(kind: str) -> bool:
    """Whether transformers has the architecture of a `model_type`. It is imported only where it has no such folder."""
    found = find_spec("transformers")
    places = found.submodule_search_locations if found else ()
    if any((Path(place) / "models" / kind.replace("-", "_")).is_dir() for place in places or ()):
        return True
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _same(name: str, other: str) -> bool:
    return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", other).lower()
