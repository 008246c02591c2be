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
    """1 if the answer's last expression equals the record's reference answer, by math-verify (extra `maths`)."""
    needs("math_verify", "maths", "maths")
    return against(completions, records, field, lambda text, references: _equal(text, references, tag))


def _equal(text: str, references: list[str], tag: str) -> float | Missing:
    from math_verify import parse, verify

    right = [gold for gold in (_gold(reference) for reference in references) if gold]
    if not right:
        return Missing(f"the reference answer cannot be read as mathematics: {references[0]!r:.40}")
    # The library's own time limits use signals, and this process has a time limit already.
    answer = parse(tagged(text, tag) or "", parsing_timeout=None)  # type: ignore[arg-type]
    return float(any(verify(gold, answer, timeout_seconds=None) for gold in right))


def _gold(reference: str) -> list[Any]:
    """A reference unchanged if it is marked up; else all of it as one expression."""
    from math_verify import parse

    text = reference.rpartition("####")[2].strip()
    marked = "\\boxed" in text or "$" in text or "\\(" in text or "\\[" in text
    expressions = parse(text if marked else f"${text}$", parsing_timeout=None)  # type: ignore[arg-type]
    return list(expressions or parse(text, parsing_timeout=None))  # type: ignore[arg-type]


def needs(module: str, extra: str, reward: str) -> None:
    """Raises ZooError if the package of an extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ZooError(
            f"{reward} needs the package {module.replace('_', '-')}, which is not installed",
            f'pip install "post-training-zoo[{extra}]", or: pip install {module.replace("_", "-")}',
        )
