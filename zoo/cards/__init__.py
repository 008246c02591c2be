"""Cards: what plugins say of themselves, kept on disk, so that help, listings and checks need not import them.

A plugin that trains imports torch, which takes seconds. What it declares (options, metrics, kinds of data, roles) stays
the same until its source changes, so it is found out once and kept in zoo's cache. From a card comes a class that
declares the same and cannot train; what no card can hold is asked of the plugin itself.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from zoo.cards import kept
from zoo.cards.algorithms import describe, stand_in
from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.contract.descriptions import source_of
from zoo.contract.plugin_files import is_file_name
from zoo.errors import ZooError


def described(name: str) -> tuple[str, type[Algorithm]]:
    """Short name and class of an algorithm, as `registry.load_algorithm`; the class may be one from a card.

    Such a class declares what the real one does and checks options as it does. It has stubs in place of hooks. Raises
    ZooError as `load_algorithm` does.
    """
    place = _place(name)
    card = None if place is None else kept.read("algorithm", place)
    if card is not None:
        return card["short"], stand_in(card, lambda: registry.load_algorithm(name)[1])
    short, cls = _carded(name, place)
    if not is_file_name(name):
        _fill_in(registry.find(name).package)
    return short, cls


def _carded(name: str, place: list[str] | None) -> tuple[str, type[Algorithm]]:
    """The algorithm itself, whose card is written down."""
    short, cls = registry.load_algorithm(name)
    facts = describe(cls) if place is not None else None
    if place is not None and facts is not None:
        kept.write("algorithm", place, {"short": short, **facts}, kept.files_behind(cls, cls.Config))
    return short, cls


def _fill_in(package: str) -> None:
    """The other cards of a package: what takes long has been imported, and the next to be asked for needs not wait."""
    for entry in registry.algorithms():
        place = _place(entry.full_name) if entry.package == package else None
        if place is not None and kept.read("algorithm", place) is None:
            with contextlib.suppress(ZooError):
                _carded(entry.full_name, place)


def real(cls: type[Algorithm]) -> type[Algorithm]:
    """The algorithm itself, where a class was made from its card. Raises ZooError as `load_algorithm` does."""
    load = vars(cls).get("load_real")
    return cls if load is None else load.__func__()


def about(cls: type[Algorithm]) -> str:
    """The docstring of the module that an algorithm stands in."""
    import inspect

    own = vars(cls).get("about_module")
    return str(own) if own is not None else inspect.getdoc(inspect.getmodule(cls)) or ""


def _place(name: str) -> list[str] | None:
    """What identifies an algorithm: how it is registered, and its file; None where its module is loaded already."""
    if is_file_name(name):
        file = Path(name.partition(":")[0]).expanduser()
        return [name, str(file.resolve())] if file.is_file() else None
    entry = registry.find(name)
    module = entry.target.partition(":")[0]
    try:
        file = source_of(module)
    except ImportError:
        return None
    return None if module in sys.modules else [entry.name, entry.target, entry.package, entry.version, str(file)]
