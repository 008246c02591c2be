"""A user's regular expression over what a judge wrote: Python's own, and with a limit of time.

Python's `re` has no such limit, and a pattern such as `(a|aa)+$` can take years over one text. The package `regex` has
one. Where the two read a pattern differently, `re` decides.
"""

from __future__ import annotations

import re
from typing import Any

from zoo.errors import ZooError

SECONDS = 1.0
"""Of computing, that a pattern may take over one text."""
TOKEN = re.compile(
    r"""\\N\{[^}]*\} | \\.                  # An escape.
    | \[\^?\]?(?:\\.|[^\]\\])*\]            # A set; a bracket at its start belongs to it.
    | \{(?!\d+(?:,\d*)?\}|,\d*\})           # A brace that repeats nothing.""",
    re.DOTALL | re.VERBOSE,
)
"""What `regex` may read differently, and the escapes among it."""


class TooSlow(Exception):
    """A pattern took more than SECONDS."""

    def __init__(self) -> None:
        super().__init__(f"the pattern took more than {SECONDS:g} s over the judge's text")


class Pattern:
    """text: as for `re.compile`. Raises ZooError if that does not take it."""

    def __init__(self, text: str):
        try:
            self.groups = re.compile(text).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ZooError(f"the pattern is not a regular expression: {error}") from None
        self._compiled = _compiled(text)

    def last(self, text: str) -> re.Match[str] | None:
        """The last of all matches. Raises TooSlow."""
        found = None
        try:
            for found in self._compiled.finditer(text, timeout=SECONDS):  # noqa: B007 (the last one stays)
                pass
        except TimeoutError:
            raise TooSlow from None
        return found


def _compiled(text: str) -> Any:
    import regex

    try:
        return regex.compile(TOKEN.sub(_as_in_python, text), regex.VERSION0)
    except regex.error as error:
        raise ZooError(f"the pattern cannot be read: {error}", "Write it more simply.") from None


def _as_in_python(token: re.Match[str]) -> str:
    """To `regex`, {e} allows for errors and [[:alpha:]] is a class; to Python they are these characters."""
    text = token[0]
    if text.startswith("["):
        return "[" + re.sub(r"(\\.)|\[", lambda part: part[1] or r"\[", text[1:], flags=re.DOTALL)
    return r"\{" if text == "{" else text
