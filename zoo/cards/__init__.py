"""Cards: what plugins declare, stored on disk, so that help, listings and checks need not import them.

An algorithm's plugin imports torch, which takes seconds. What it declares (options, metrics, kinds of data, roles)
stays the same until its source changes, so it is read once and stored in zoo's cache. A card gives a class that
declares the same but cannot train; for what a card cannot hold, the plugin itself is imported.
"""

from __future__ import annotations

import contextlib
import sys

from zoo.cards import kept
from zoo.cards.algorithms import describe, stand_in
from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.contract.descriptions import source_of
from zoo.contract.lent import is_lent
from zoo.contract.plugin_files import is_file_name
from zoo.errors import ZooError
from zoo.paths import typed_path


def described(name: str) -> tuple[str, type[Algorithm]]:
    """Short name and class of an algorithm, like `registry.load_algorithm`; the class may come from a card.

    Such a class declares what the real class declares and checks options in the same way. Its hooks are stubs. Raises
    ZooError as `load_algorithm` does.
    """
    if is_lent(name):
        return registry.load_algorithm(name)
    place = _place(name)
    card = None if place is None else kept.read("algorithm", place)
    if card is not None:
        return card["short"], stand_in(card, lambda: registry.load_algorithm(name)[1])
    short, cls = _carded(name, place)
    if not is_file_name(name):
        _fill_in(registry.find(name).package)
    return short, cls


def _carded(name: str, place: list[str] | None) -> tuple[str, type[Algorithm]]:
    """The algorithm itself; writes its card."""
    short, cls = registry.load_algorithm(name)
    facts = describe(cls) if place is not None else None
    if place is not None and facts is not None:
        kept.write("algorithm", place, {"short": short, **facts}, kept.files_behind(cls, cls.Config))
    return short, cls


def _fill_in(package: str) -> None:
    """Write the other cards of a package: the slow imports are done, and later commands need not wait for them."""
    for entry in registry.algorithms():
        place = _place(entry.full_name) if entry.package == package else None
        if place is not None and kept.read("algorithm", place) is None:
            with contextlib.suppress(ZooError):
                _carded(entry.full_name, place)


def real(cls: type[Algorithm]) -> type[Algorithm]:
    """The real class of an algorithm, for a class from a card. Raises ZooError as `load_algorithm` does."""
    load = vars(cls).get("load_real")
    return cls if load is None else load.__func__()


def about(cls: type[Algorithm]) -> str:
    """The docstring of the module that defines an algorithm."""
    import inspect

    own = vars(cls).get("about_module")
    return str(own) if own is not None else inspect.getdoc(inspect.getmodule(cls)) or ""


def _place(name: str) -> list[str] | None:
    """What identifies an algorithm: its entry point and its file; None if its module is loaded already."""
    if is_file_name(name):
        file = typed_path(name.partition(":")[0])
        return [name, str(file.resolve())] if file.is_file() else None
    entry = registry.find(name)
    module = entry.target.partition(":")[0]
    try:
        file = source_of(module)
    except ImportError:
        return None
    return None if module in sys.modules else [entry.name, entry.target, entry.package, entry.version, str(file)]
