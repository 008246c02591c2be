"""What an author declares for the conformance suite, in addition to the class itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class Declared:
    """A dict `conformance` on the class, or arguments of `zoo.testing.conformance`; all keys are optional."""

    variants: Sequence[Mapping[str, Any]] = ()
    """Further options to check. Booleans and choices of `Config` are tried automatically."""
    start: Mapping[str, float] = field(default_factory=dict)
    """`loss` and metrics in the first step with default options, while the policy still equals its reference."""
    falls: str = "loss"
    """What falls when the algorithm memorises a few rows: `loss`, a metric, or `-metric` for one that rises."""
    values: Sequence[Mapping[str, Any]] = ()
    """Worked numbers, each `{"given": arguments of stand_ins, "options": {…}, "measured": {…}, "loss": number}`."""
    flat: Sequence[Mapping[str, Any]] = ()
    """Options with which equal rewards give a gradient of exactly 0."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Columns of its own that the algorithm reads, each with values that the rows take in turn."""
    exceptions: Mapping[str, str] = field(default_factory=dict)
    """`{check: reason}` for checks that are known to fail; a check that no longer fails is reported as a failure."""


def declared(*parts: Mapping[str, Any], checks: Sequence[str]) -> Declared:
    """The parts merged, later ones overriding earlier ones. Raises ZooError for unknown keys.

    checks: names of the checks, for exceptions.
    """
    fields = {name: value for part in parts for name, value in part.items()}
    keys = [f.name for f in dataclasses.fields(Declared)]
    for name in fields:
        if name not in keys:
            raise ZooError(f"conformance has no key '{name}'.{nearest(name, keys)}", f"It takes: {', '.join(keys)}.")
    exceptions = dict(fields.get("exceptions", {}))
    for name, reason in exceptions.items():
        if not str(reason or "").strip():
            raise ZooError(f"The exception from '{name}' has no reason.", 'Write {"check": "why it does not hold"}.')
    for name, values in fields.get("columns", {}).items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ZooError(
                f"The column '{name}' of conformance has no list of values.", f'Write {{"{name}": ["a", "b"]}}.'
            )
    fields["exceptions"] = {find_check(name, checks): reason for name, reason in exceptions.items()}
    return Declared(**fields)


def find_check(name: str, checks: Sequence[str]) -> str:
    """The check with this name; dashes and spaces are equivalent. Raises ZooError with the nearest name."""
    plain = {check.replace("-", " "): check for check in checks}
    wanted = name.strip().lower().replace("-", " ").replace("_", " ")
    if wanted not in plain:
        raise ZooError(f"There is no check '{name}'.{nearest(wanted, plain)}", f"There are: {', '.join(checks)}.")
    return plain[wanted]
