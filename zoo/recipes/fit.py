"""Whether data and models that a recipe names can fit, as far as this is known without fetching or making them.

Of files and named sources the first rows are read. A data set of the hub is not fetched; only the recipe's own
`format` or `columns` tell its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.data.convert import kinds_that_serve
from zoo.data.formats import columns_of, named_format
from zoo.data.kinds import KINDS
from zoo.data.load import load
from zoo.data.sources import file_type
from zoo.data.sources.mixture import Part
from zoo.data.sources.reading import PLAIN, NamedSources, Reading
from zoo.errors import ZooError, nearest
from zoo.models.default import NAME
from zoo.paths import typed_path
from zoo.runs import is_run_name

ROWS = 8
"""Enough rows to tell the kind, and no more than a world can give without training a network."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.+-]+)?(@.*)?")


class DataFit:
    """Says why data does not fit; each source is read once. absent_files: files may be missing until later."""

    def __init__(self, named: NamedSources, absent_files: bool = False):
        self.named, self.absent_files = named, absent_files
        self.known: dict[tuple[Any, ...], str] = {}

    def problem(self, part: Part, kinds: tuple[str, ...], options: Mapping[str, Any], *, made: str | None) -> str:
        """Why data does not fit an algorithm that learns from `kinds`; empty if it may fit.

        options: the core's options, of which columns, format and split are used; made: the kind of data that a
        labelling stage makes, if it is the source.
        """
        settings = [options.get(name) for name in ("split", "columns", "format")]
        key = (part, kinds, made, *map(str, settings))
        if key not in self.known:
            try:
                self.known[key] = self._problem(part, kinds, self._reading(part, *settings), made)
            except ZooError as error:
                self.known[key] = error.message
        return self.known[key]

    def _reading(self, part: Part, split: str | None, columns: Any, format: str | None) -> Reading:
        of_stage = Reading(split or PLAIN.split, columns_of(columns) or {}, format or None, named_sources=self.named)
        return replace(part.reading(of_stage), limit=ROWS)

    def _problem(self, part: Part, kinds: tuple[str, ...], reading: Reading, made: str | None) -> str:
        if made:
            return _refused(made, kinds, "labels make")
        if self._is_out_of_reach(part.source):
            if reading.format:
                return _refused(named_format(reading.format).kind, kinds, f"format {reading.format} is")
            return _refused_by_columns(reading.columns, kinds)
        load(part.source, kinds, reading)
        return ""

    def _is_out_of_reach(self, source: str) -> bool:
        """Whether a source is on the hub, or a file that is made later."""
        path = typed_path(source)
        if path.exists() or re.split(r"[:(@]", source)[0] in self.named:
            return False
        return self.absent_files if file_type(path) else bool(_HUB.fullmatch(source))


def _refused(kind: str, kinds: tuple[str, ...], what: str) -> str:
    """Why data of a kind fits none of the wanted kinds."""
    if any(kind in kinds_that_serve(wanted) for wanted in kinds):
        return ""
    return f"{what} data of kind '{kind}', but kind '{kinds[0]}' ({KINDS[kinds[0]].description}) is needed."


def _refused_by_columns(columns: Mapping[str, str], kinds: tuple[str, ...]) -> str:
    """The same for a data set of which only the named columns are known."""
    whole = [kind for kind, about in KINDS.items() if len(about.required) > 1 and set(about.required) <= set(columns)]
    if not whole or any(not _refused(kind, kinds, "") for kind in whole):
        return ""
    return _refused(whole[-1], kinds, f"its columns ({', '.join(columns)}) are")


# -- models --------------------------------------------------------------------------------------------------------

_HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")


def model_problem(name: str, makers: Mapping[str, Any]) -> str:
    """Why there can be no such model; empty if there may be. makers: contributions of plugins to the hook `models`."""
    path = typed_path(name)
    if name == NAME or path.exists() or is_run_name(name):
        return ""
    first, colon, part = name.partition(":")
    if first in makers:
        check = getattr(makers[first], "check", None)
        try:
            if check is not None:
                check(part)
        except ZooError as error:
            return f"{error.message} {error.hint}".strip()
        return ""
    if colon or "(" in name:
        first = first.partition("(")[0]
        return f"no plugin makes a model '{first}'.{nearest(first, makers)}"
    if name.startswith((".", "/", "~")) or path.suffix == ".gguf":
        return f"there is no model at {name}."
    if not _HUB_MODEL.fullmatch(name) and (guess := nearest(name, [NAME, *makers])):
        return f"there is no model '{name}'.{guess}"
    return ""
