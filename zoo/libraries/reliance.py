"""What zoo relies on in the libraries underneath, each claim with a small check that it still holds.

The checks of a library run once per process, before a run first uses it; `zoo doctor` runs all checks. A check is a
function without arguments that raises if the library behaves differently. It uses no network, takes milliseconds, and
does not change the random state of the process.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from zoo import __version__
from zoo.errors import ZooError
from zoo.libraries import releases
from zoo.libraries.quiet import quiet_bitsandbytes

MODULES = {
    "torch": ("arithmetic", "tracing", "sharding"),
    "transformers": (
        "caches", "attention", "architecture", "heads", "experts", "pretrained", "tokenizing", "vocabulary",
        "optimizers", "responses", "stored", "tensor_parallel",
    ),
    "peft": ("adapters", "whole_modules", "second_adapter", "pissa"),
    "lightning": ("trainer", "precision", "cluster", "meeting"),
    "datasets": ("tables",),
    "huggingface-hub": ("hub",),
}  # fmt: skip
"""The modules of this package that use a library's internals."""


@dataclass(frozen=True)
class Reliance:
    """One claim that zoo relies on. claim: a sentence about the library; check: raises if it is no longer true."""

    library: str
    claim: str
    check: Callable[[], None]
    everywhere: bool = True
    """Whether every run needs it; only `zoo doctor` and the tests check the others."""


@dataclass(frozen=True)
class Broken:
    """A claim that does not hold. reason: what was found instead."""

    library: str
    claim: str
    reason: str

    def text(self) -> str:
        """What changed, in one or two sentences."""
        version = releases.installed(self.library)
        return f"{self.library} {version} has changed what zoo relies on: {self.claim} Found: {self.reason}."

    def remedy(self) -> str:
        """The command that fixes it."""
        version = releases.tested(self.library)
        if version == releases.installed(self.library):
            return (
                f"zoo {__version__} was tested with just this version, so this copy of it was changed: "
                f"pip install --force-reinstall --no-deps '{self.library}=={version}'"
            )
        return f"{self.library} {version} is tested with zoo {__version__}: pip install '{self.library}=={version}'"


class LibraryError(ZooError):
    """A library does not behave as zoo needs; names the library, its version, and a version that works."""


_RELIANCES: dict[str, list[Reliance]] = {library: [] for library in MODULES}


def relies_on(library: str, claim: str, everywhere: bool = True) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A decorator that makes a function the check of a claim about a library."""

    def register(check: Callable[[], None]) -> Callable[[], None]:
        _RELIANCES[library].append(Reliance(library, claim, check, everywhere))
        return check

    return register


@contextlib.contextmanager
def importing(library: str) -> Iterator[None]:
    """For the imports of a module of this package: a missing name raises `LibraryError`."""
    quiet_bitsandbytes()
    try:
        yield
    except ImportError as error:
        if releases.installed(library) == "none":
            remedy = f"pip install '{library}{releases.allowed(library)}'"
            raise LibraryError(f"{library} is not installed.", remedy) from None
        broken = Broken(library, "It has all the names that zoo imports.", _first_line(error))
        raise LibraryError(broken.text(), broken.remedy()) from error


def reliances(library: str) -> list[Reliance]:
    """All claims about a library. Raises LibraryError if a module of the seam cannot be imported."""
    modules = [f"zoo.libraries.{module}" for module in MODULES[library]]
    for module in modules:
        importlib.import_module(module)
    return sorted(_RELIANCES[library], key=lambda one: modules.index(one.check.__module__))


def broken(library: str, everything: bool = True) -> list[Broken]:
    """The claims about a library that do not hold."""
    found = []
    for reliance in reliances(library):
        if not everything and not reliance.everywhere:
            continue
        try:
            with _same_random_numbers():
                reliance.check()
        except Exception as error:
            found.append(Broken(library, reliance.claim, _first_line(error)))
    return found


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch afterwards, as far as they are loaded."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    python, arrays = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=[]) if torch else contextlib.nullcontext():
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(arrays)


@cache
def require(library: str) -> None:
    """Raises LibraryError if a library does not behave as every run needs; checks once per process."""
    if found := broken(library, everything=False):
        raise LibraryError("\n".join(one.text() for one in found), found[0].remedy() + ". `zoo doctor` checks all.")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else ""
    return text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
