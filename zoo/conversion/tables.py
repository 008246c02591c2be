"""The tables of `zoo convert-config`, one for each program.

A package registers its tables with an entry point of the group `zoo.configs`, whose value is a package with `*.yaml`
files. One that others build on (`extends`) has no `program`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zoo.contract import descriptions, registry
from zoo.errors import ZooError, nearest
from zoo.options.strict_yaml import read_yaml


@dataclass(frozen=True)
class Table:
    """What the options of a program are in zoo.

    algorithms: rules, of which the first that fits names the algorithm; defaults, implied, own: by algorithm, `any` for
    all; options, own: their key → how it is said here (`zoo.conversion.convert` has the forms); left_out, needless:
    key → why.
    """

    name: str
    program: str
    version: str
    algorithms: list[dict[str, Any]]
    defaults: Mapping[str, Mapping[str, Any]]
    implied: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    needless: Mapping[str, str]
    data: Mapping[str, str]

    def known(self) -> set[str]:
        """Every key of the program that the table knows."""
        own = {key for options in self.own.values() for key in options}
        deciding = {key for rule in self.algorithms for key in rule.get("when", {})}
        return {*self.options, *self.left_out, *self.needless, *self.data, *own, *deciding}


def all_tables() -> dict[str, Table]:
    """The table of each program by its name, `llama-factory`."""
    files = {
        file.stem: file
        for package in registry.config_packages()
        for file in sorted(descriptions.source_of(package.target).parent.glob("*.yaml"))
    }
    return {name: table for name, file in files.items() if (table := _read(name, file, files)) is not None}


def choose(name: str | None, keys: list[str]) -> Table:
    """The table of this name, or the one that knows most of the keys. Raises ZooError."""
    tables = all_tables()
    if name is not None:
        if name not in tables:
            raise ZooError(f"There is no program '{name}' to convert from.{nearest(name, tables)}",
                           f"Write --from {'|'.join(tables)}.")  # fmt: skip
        return tables[name]
    counts = sorted(((len(table.known() & {*keys}), name) for name, table in tables.items()), reverse=True)
    if not counts or counts[0][0] == 0:
        raise ZooError("The file has no key of any program that zoo can convert from.",
                       f"It reads files of {', '.join(table.program for table in tables.values())}.")  # fmt: skip
    if len(counts) > 1 and counts[0][0] == counts[1][0]:
        alike = [name for count, name in counts if count == counts[0][0]]
        raise ZooError(f"The file could be one of {' or '.join(sorted(alike))}.", f"Say which: --from {alike[0]}.")
    return tables[counts[0][1]]


def program_of(keys: Collection[str]) -> str | None:
    """The program whose words these keys are, of which one names the model; None where there is none."""
    tables = [table for table in all_tables().values() if any(table.options.get(key) == "model" for key in keys)]
    return max(tables, key=lambda table: len(table.known() & {*keys})).program if tables else None


_content = cache(read_yaml)


def _read(name: str, file: Path, files: Mapping[str, Path]) -> Table | None:
    content = _content(file)
    if "program" not in content:
        return None
    below = _content(files[content["extends"]]) if "extends" in content else {}
    own = {key: dict(content.get(key, {})) for key in ("defaults", "implied", "own")}
    own["defaults"]["any"] = {**below.get("defaults", {}).get("any", {}), **own["defaults"].get("any", {})}
    options = {**below.get("options", {}), **content.get("options", {})}
    reasons = {
        kind: {key: why for part in (below, content) for why, keys in part.get(kind, {}).items() for key in keys}
        for kind in ("left_out", "needless")
    }
    return Table(
        name, content["program"], str(content["version"]), content["algorithms"], own["defaults"], own["implied"],
        options, own["own"], reasons["left_out"], reasons["needless"], content.get("data", {}),
    )  # fmt: skip
