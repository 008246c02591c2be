"""Named sources: what a plugin provides besides rows, and how to look it up."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.contract.registry import contributions, manager

WITH_SPLIT = re.compile(r"(.+)@([^@/]+)")


@dataclass(frozen=True)
class DataSource:
    """A named source that provides more than rows.

    rows: function(split, kind) -> rows; a third parameter gets the part: the text after the colon in `name:part`.
    defaults: function(part, algorithm) -> options that fit this data: the model that knows its words, the reward that
    it is made for, the evaluation that measures what was learned, an option of the algorithm. `algorithm` is the class,
    so that the function can look at what it declares (`head`, `data`, `online()`, `defaults`).
    """

    rows: Callable[..., Any]
    defaults: Callable[[str, type[Algorithm]], Mapping[str, Any]] | None = None


def rows_of(source: Any) -> Callable[..., Any]:
    """The function that gives the rows: that of a `DataSource`, or the function itself."""
    return source.rows if isinstance(source, DataSource) else source


def part_of(give: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter of a source's function that gets the part; None if it has no parts."""
    return next(iter(list(inspect.signature(give).parameters.values())[2:]), None)


def parts_of(source: str) -> tuple[str, str]:
    """Name and part of a source: `world:gold(seed=3)@heldout` is (`world`, `gold(seed=3)`)."""
    spelled = WITH_SPLIT.fullmatch(source)
    name, _, part = (spelled[1] if spelled else source).partition(":")
    return name, part


class Anyone(Algorithm):
    """A stand-in for the algorithm, if a source is asked for its model and no algorithm is named."""

    api_version = 2
    data = "demonstration"


def data_model(source: str, otherwise: str, algorithm: type[Algorithm] = Anyone) -> str:
    """The model that a source provides for its own words, else `otherwise`."""
    return str(source_defaults(source, algorithm).get("model", otherwise))


def source_defaults(source: str, algorithm: type[Algorithm]) -> dict[str, Any]:
    """The options that a named source sets for an algorithm; empty for other sources."""
    name, part = parts_of(source)
    if "/" in name or "\\" in name:
        return {}
    contribution = contributions(manager(), "sources").get(name)
    defaults = (
        contribution.defaults(part, algorithm) if isinstance(contribution, DataSource) and contribution.defaults else {}
    )
    return dict(defaults)
