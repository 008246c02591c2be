"""How a source is read: what `--split`, `--columns`, `--format`, `--limit` and `--strict` say, in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.data.formats import columns_of
from zoo.data.sources.named import DataSource

NamedSources = Mapping[str, Callable[..., Any] | DataSource]


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    split: which part of it; columns: wanted names to those in the data; format: the name of a format, instead of
    detecting it (a named source, which may have several, is asked for rows of that format's kind); limit: the most rows
    to read; strict: whether no row may be dropped; named_sources: the sources of plugins, by name.
    """

    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    limit: int | None = None
    strict: bool = False
    named_sources: NamedSources = field(default_factory=dict)

    @classmethod
    def of(cls, options: Any, named_sources: NamedSources) -> Reading:
        """What the options of a run or of `zoo label` say. Raises ZooError for columns that cannot be read."""
        return cls(
            options.split, columns_of(options.columns) or {}, options.format, options.limit,
            getattr(options, "strict", False), named_sources,
        )  # fmt: skip


PLAIN = Reading()
"""Nothing is said: the training split, in a format that is detected."""
