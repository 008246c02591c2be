"""Whether two mathematical expressions are equal, as the library math-verify decides: 0.5 is \\frac{1}{2}."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.rewards.missing import Missing
from zoo.rewards.references import against, tagged

Values = list[float | None | Missing]


def maths(completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str = "", tag: str = "") -> Values:
    """1 where the answer's last expression equals the record's reference answer, by math-verify (extra `maths`)."""
    needs("math_verify", "maths", "maths")
    return against(completions, records, field, lambda text, references: _equal(text, references, tag))


def _equal(text: str, references: list[str], tag: str) -> float | Missing:
    from math_verify import parse, verify

    right = [one for one in (_gold(reference) for reference in references) if one]
    if not right:
        return Missing(f"the reference answer cannot be read as mathematics: {references[0]!r:.40}")
    # The library's own time limits are signals, and the whole of this runs under one already.
    given = parse(tagged(text, tag) or "", parsing_timeout=None)  # type: ignore[arg-type]
    return float(any(verify(one, given, timeout_seconds=None) for one in right))


def _gold(reference: str) -> list[Any]:
    """A reference as it stands, where it is marked up; else the whole of it as one expression."""
    from math_verify import parse

    text = reference.rpartition("####")[2].strip()
    marked = "\\boxed" in text or "$" in text or "\\(" in text or "\\[" in text
    found = parse(text if marked else f"${text}$", parsing_timeout=None)  # type: ignore[arg-type]
    return list(found or parse(text, parsing_timeout=None))  # type: ignore[arg-type]


def needs(module: str, extra: str, reward: str) -> None:
    """Raises ZooError where the package of an extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ZooError(
            f"{reward} needs the package {module.replace('_', '-')}, which is not installed",
            f'pip install "post-training-zoo[{extra}]", or: pip install {module.replace("_", "-")}',
        )
