"""How a judge is asked about a single answer, and how its own words are read (arXiv:2408.15240, arXiv:2504.02495)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from zoo.judges.pattern import Pattern

GRADES = (1.0, 10.0)
"""The lowest and the highest grade."""


@dataclass(frozen=True)
class Asking:
    """How a judge is asked about a single answer.

    chain_of_thought: it reasons before it chooses; votes: how often it is asked, and the result is the mean; above 1 it
    reasons anew each time, at `temperature`. pattern: a regular expression by which the verdict is found in what the
    judge writes, instead of a choice: a grade from `low` to `high`, or one of two choices.
    """

    chain_of_thought: bool = False
    votes: int = 1
    temperature: float = 1.0
    pattern: str = ""
    low: float = GRADES[0]
    high: float = GRADES[1]

    @property
    def thinking(self) -> bool:
        return self.chain_of_thought or bool(self.pattern)

    @cached_property
    def _compiled(self) -> Pattern:
        return Pattern(self.pattern)

    def verdict(self, text: str) -> str | None:
        """What the pattern's first group, or the whole pattern, matches; the last of all matches, None without one.

        A judge may quote the answer first, and concludes at the end. Raises TooSlow, as `grade` and `yes` do.
        """
        match = self._compiled.last(text)
        return (match[min(1, self._compiled.groups)] or "").strip() if match else None

    def grade(self, text: str) -> float | None:
        """The grade in a judge's text; None if there is none between `low` and `high`."""
        try:
            grade = float(self.verdict(text) or "")
        except ValueError:
            return None
        return grade if self.low <= grade <= self.high else None

    def yes(self, text: str, choices: Sequence[str]) -> float | None:
        """1 if a judge's text makes the first of two choices, 0 for the second, None for neither."""
        names = [choice.casefold() for choice in choices]
        said = (self.verdict(text) or "").casefold()
        return float(1 - names.index(said)) if said in names else None
