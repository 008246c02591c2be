"""Sources by name: what a plugin brings besides rows, and how it is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import contributions, manager

WITH_SPLIT = re.compile(r"(.+)@([^@/]+)")


@dataclass(frozen=True)
class DataSource:
    """A named source that brings more than rows.

    rows: function(split, kind) -> rows; a third parameter gets the part, what stands behind the colon in `name:part`.
    defaults: function(part, algorithm) -> options of the core that fit this data: the model that knows its words, the
    reward that it is made for, the evaluation that sees what was learned. The algorithm is the class, to look at what
    it declares (`head`, `data`, `online()`, `defaults`).
    """

    rows: Callable[..., Any]
    defaults: Callable[[str, type[Algorithm]], Mapping[str, Any]] | None = None


def rows_of(given: Any) -> Callable[..., Any]:
    """The function that gives the rows, of a `DataSource` or itself."""
    return given.rows if isinstance(given, DataSource) else given


def parts_of(source: str) -> tuple[str, str]:
    """Name and part of a source: `world:gold(seed=3)@heldout` is (`world`, `gold(seed=3)`)."""
    spelled = WITH_SPLIT.fullmatch(source)
    name, _, part = (spelled[1] if spelled else source).partition(":")
    return name, part


class Anyone(Algorithm):
    """Stands for the algorithm where a source is asked for its model, and none is named."""

    api_version = 2
    data = "demonstration"


def data_model(source: str, otherwise: str, algorithm: type[Algorithm] = Anyone) -> str:
    """The model that knows a source's words, where the source brings one."""
    return str(data_defaults(source, algorithm).get("model", otherwise))


def data_defaults(source: str, algorithm: type[Algorithm]) -> dict[str, Any]:
    """The options of the core that a source brings for an algorithm, none if it is no named one."""
    name, part = parts_of(source)
    if "/" in name or "\\" in name:
        return {}
    given = contributions(manager(), "sources").get(name)
    found = given.defaults(part, algorithm) if isinstance(given, DataSource) and given.defaults else {}
    return dict(found)
