"""The domains of a run's rows, by which a role of several models, `--teacher math=A,code=B`, chooses one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.options.config import Resolved
from zoo.options.roles import ONE
from zoo.training.step.parts import Parts
from zoo.values.answers import with_facts
from zoo.values.records import Record, Records

COLUMN = "domain"
"""The column of a row, and the field of its encoded record and of its answers."""


def domains_of(resolved: Resolved, roles: Collection[str]) -> dict[str, list[str]]:
    """The domains of each role of a run that has several models, by its flag."""
    named = {role: resolved.models(role) for role in roles if resolved.roles[role].is_frozen_copy}
    return {
        f"--{resolved.roles[role].option.replace('_', '-')}": [*models]
        for role, models in named.items() if ONE not in models
    }  # fmt: skip


class Domains:
    """Gives an encoded record and its answers their domain: that of the row, else the name of its part of a mixture.

    wanted: as of `domains_of`; source: what the data is called; parts: of a mixture, by the rows of their records;
    where: names a row of a stream.
    """

    def __init__(
        self, wanted: Mapping[str, Collection[str]], source: str, parts: Parts | None,
        where: Callable[[int], str] | None = None,
    ):  # fmt: skip
        self.wanted, self.source, self.parts, self.where = wanted, source, parts, where or self._where

    def __call__(self, record: Record) -> Record:
        """The record with its domain. Raises ZooError for none, and for one that a role has no model for."""
        domain = record["record"].get(COLUMN)
        if domain is None and self.parts is not None:
            domain = self.parts.label(record["row"])
        for flag, domains in self.wanted.items():
            if domain not in domains:
                raise self._fault(record["row"], domain, flag, domains)
        return {**with_facts(record, domain=domain), COLUMN: domain}

    def checked(self, records: Records) -> Records:
        """The records with their domains, after a look at each."""
        named = records.map(self)
        for _ in named:
            pass
        return named

    def _fault(self, row: int, domain: Any, flag: str, domains: Collection[str]) -> ZooError:
        place, names = self.where(row), ", ".join(domains)
        if domain is None:
            return ZooError(
                f"{place} has no domain, and {flag} has a model for each of {names}.",
                f"Give each row a column {COLUMN} with one of these (--columns {COLUMN}=SUBJECT takes it from a column "
                "SUBJECT), or the parts of a mixture these names: 'a.jsonl(name=math) + b.jsonl(name=code)'.",
            )
        guess = nearest(domain, domains) if isinstance(domain, str) else ""
        return ZooError(
            f"{place} has the domain {domain!r}, and {flag} has a model for each of {names}.{guess}",
            f"Change it, in the column {COLUMN} of the row or in the name of its part of a mixture; or add a model: "
            f"{flag} …,{domain}=MODEL.",
        )

    def _where(self, row: int) -> str:
        if self.parts is None:
            return f"Row {row} of {self.source}"
        number = int(self.parts.owners([row])[0])
        return f"Row {row - self.parts.before[number]} of {self.parts.labels[number]}"
