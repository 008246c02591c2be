"""What an author tells the conformance suite about an algorithm, beyond what the class declares anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class Declared:
    """Stands as a dict `conformance` on the class, or as arguments of `zoo.testing.conformance`; all is optional."""

    variants: Sequence[Mapping[str, Any]] = ()
    """Options worth checking besides the defaults. Truth values and choices of `Config` are tried without being named.
    """
    start: Mapping[str, float] = field(default_factory=dict)
    """`loss` and metrics in the first step with default options, where the policy still is its reference."""
    falls: str = "loss"
    """What falls when the algorithm learns a few rows by heart: `loss`, a metric, or `-metric` for one that rises."""
    values: Sequence[Mapping[str, Any]] = ()
    """Worked numbers, each `{"given": arguments of stand_ins, "options": {…}, "measured": {…}, "loss": number}`."""
    flat: Sequence[Mapping[str, Any]] = ()
    """Options with which rewards that are all the same teach nothing: every gradient is exactly 0."""
    exceptions: Mapping[str, str] = field(default_factory=dict)
    """`{check: reason}` for checks that are known to fail; one that no longer fails is itself a failure."""


def declared(*parts: Mapping[str, Any], checks: Sequence[str]) -> Declared:
    """The parts together, later ones outranking earlier ones. Raises ZooError for what means nothing.

    checks: names of the checks, for exceptions.
    """
    given = {name: value for part in parts for name, value in part.items()}
    known = [f.name for f in dataclasses.fields(Declared)]
    for name in given:
        if name not in known:
            raise ZooError(f"conformance has no key '{name}'.{nearest(name, known)}", f"It takes: {', '.join(known)}.")
    exceptions = dict(given.get("exceptions", {}))
    for name, reason in exceptions.items():
        if not str(reason or "").strip():
            raise ZooError(f"The exception from '{name}' has no reason.", 'Write {"check": "why it does not hold"}.')
    given["exceptions"] = {find_check(name, checks): reason for name, reason in exceptions.items()}
    return Declared(**given)


def find_check(name: str, checks: Sequence[str]) -> str:
    """The check of that name; dashes and blanks are the same. Raises ZooError with the nearest one."""
    plain = {check.replace("-", " "): check for check in checks}
    wanted = name.strip().lower().replace("-", " ").replace("_", " ")
    if wanted not in plain:
        raise ZooError(f"There is no check '{name}'.{nearest(wanted, plain)}", f"There are: {', '.join(checks)}.")
    return plain[wanted]
