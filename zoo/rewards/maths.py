"""Whether two mathematical expressions are equal: numbers as `numeric` reads them, others as math-verify decides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.libraries.extras import needs
from zoo.rewards.missing import Missing, Undecided
from zoo.rewards.quantities import LIST, Number, Unclear
from zoo.rewards.readings import read, verdict
from zoo.rewards.references import against, boxed, tagged
from zoo.rewards.surroundings import EXPRESSION, SEVERAL

MATH_VERIFY = ("math_verify", "maths")
"""The package, and the extra that brings it."""
MARKED = re.compile(r"\$|\\[(\[]|\\boxed")
ALONE = re.compile(r"(?!\d+!$|.*[+/] ?[/-])(?:\\[a-zA-Z]+|[a-zA-Z](?![^\W_])|[\d\s.,+*/=(){}!^-])+")
"""An expression without marks, and nothing else; letters are variables."""
UNMARKED = Unclear("is an expression without marks such as $…$")
Values = list[float | None | Missing]


def maths(completions: Sequence[str], records: Sequence[Mapping[str, Any]], field: str = "", tag: str = "") -> Values:
    """1 if the answer's number or last expression equals the reference answer; by math-verify (extra `maths`)."""
    needs(*MATH_VERIFY, "maths")
    return against(completions, records, field, lambda text, references: _equal(text, references, tag))


def _equal(text: str, references: list[str], tag: str) -> float | Missing:
    from math_verify import parse, verify

    text = tagged(text, tag) or ""
    answer, wanted = read(text), [read(reference, alone=True) for reference in references]
    numbers = [number for number in wanted if isinstance(number, Number)]
    if len(numbers) == len(references) and answer is not None and answer != EXPRESSION:
        return verdict(answer, numbers)
    if unread := [one for one in wanted if isinstance(one, Unclear) and one not in (EXPRESSION, SEVERAL, LIST)]:
        return Missing(f"the reference answer {unread[0]}: {references[0]!r:.40}")
    right = [gold for gold in (_gold(reference) for reference in references) if gold]
    if not right:
        return Missing(f"the reference answer cannot be read as mathematics: {references[0]!r:.40}")
    # It takes several boxes for one answer of several parts.
    inside = boxed(text)
    marked = text if inside is None else f"\\boxed{{{inside}}}"
    if answer == EXPRESSION and not MARKED.search(marked):
        if not ALONE.fullmatch(text):
            return Undecided(f"the answer {UNMARKED}")
        marked = f"${text}$"
    # The library's own time limits use signals, and this process has a time limit already.
    shown = parse(marked, parsing_timeout=None)  # type: ignore[arg-type]
    return float(any(verify(gold, shown, timeout_seconds=None) for gold in right))


def _gold(reference: str) -> list[Any]:
    """A reference unchanged if it is marked up; else all of it as one expression."""
    from math_verify import parse

    text = reference.rpartition("####")[2].strip()
    expressions = parse(text if MARKED.search(text) else f"${text}$", parsing_timeout=None)  # type: ignore[arg-type]
    return list(expressions or parse(text, parsing_timeout=None))  # type: ignore[arg-type]
