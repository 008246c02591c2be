"""The way to the terminal: all text is printed, none is obeyed.

Names of folders, columns of files, answers of models and messages of plugins come from strangers. An escape sequence in
one could rewrite the screen, a mark of direction could turn a path around, and a word in square brackets would vanish
as markup. So zoo prints through `Console` and `print_json` alone (tests/test_terminal.py holds it to that): what could
do something is written out (`\\x1b`), and markup is never read. Styles are given beside the text, as in
`Text.assemble((name, "bold"), "  ", about)`.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Span, Text

from zoo.secrets import scrubbed

ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but line break and tab, delete, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of text
    "\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible
    "\ud800-\udfff]"  # halves of characters, which no stream can write
)
"""What a terminal would obey or hide. The joiners U+200C and U+200D are parts of ordinary words and emoji."""


def plain(text: str) -> str:
    """The text with every active character written out: `\\x1b`, `\\u202e`."""
    return ACTIVE.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class Console(RichConsole):
    """Rich's console that reads no markup, no names of emoji and no active characters, and highlights nothing."""

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def say(
        self, text: str, style: str | None = None, *, event: str = "message", level: str = "info",
        step: int | None = None, metrics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Print a message: plain text without secrets, never wrapped, so that it can be copied and searched.

        event, level, step, metrics: what `JsonLines` says besides.
        """
        self.print(scrubbed(text), style=style, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(_plain_text(renderable) if isinstance(renderable, Text) else renderable, options):
            # Rich's own codes come as control segments, and its styles beside the text.
            yield segment if segment.control else segment._replace(text=plain(segment.text))


class Slow:
    """Says how far a piece of work is when it takes long: after 10, 20, 40 … seconds.

    say: takes a line; what: the work, in words that fit before a colon.
    """

    first = 10.0

    def __init__(self, say: Callable[[str], None], what: str):
        self.say, self.what = say, what
        self._began, self._next = time.monotonic(), self.first

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self._began
        if seconds >= self._next and done < total:
            self._next = 2 * seconds
            self.say(f"{self.what}: {done} of {total} after {seconds:.0f} s.")


class JsonLines(Console):
    """Prints a log for programs: every line is one JSON object with time, level, event, step, metrics, message."""

    def __init__(self) -> None:
        super().__init__(force_terminal=False, force_jupyter=False, color_system=None, width=10_000)

    def say(self, text: str, style: str | None = None, **facts: Any) -> None:
        self._write(text, **facts)

    def _write(
        self, text: str, *, event: str = "message", level: str = "info", step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        numbers = {name: value if math.isfinite(value) else None for name, value in (metrics or {}).items()}
        row = {"time": now, "level": level, "event": event, "step": step, "metrics": numbers, "message": scrubbed(text)}
        # With ASCII alone nothing in it is active, and no terminal's encoding can fail.
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as captured:
            super().print(*objects, **options)
        self.say(captured.get().rstrip("\n"))


def fitting(table: Table, console: Console) -> RenderableType:
    """The table if the console has room for every word of it; otherwise a paragraph for each row.

    Rich would cut words. A paragraph begins with the first cell; each other cell follows its column's heading.
    """
    wide = console.options.update(max_width=10_000)
    if Measurement.get(console, wide, table).minimum <= console.width:
        for column in table.columns:
            words = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
            # Rich takes room from the widest column, also where its cells have nowhere to break.
            column.no_wrap = max(one.minimum for one in words) == max(one.maximum for one in words)
            column.overflow = "fold"
        return table
    headings = [_one_line(column.header) for column in table.columns[1:]]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return Group(*(_paragraph(title, headings, map(_one_line, cells), console.width) for title, *cells in rows))


def _paragraph(title: Any, headings: Iterable[Text], cells: Iterable[Text], width: int) -> RenderableType:
    """A row in one line if there is room, otherwise in a line for each cell that is not empty."""
    first = Text(str(title), style="bold", overflow="fold")
    rest = [
        Text.assemble((f"{heading}: " if heading else "", "dim"), cell, overflow="fold")
        for heading, cell in zip(headings, cells, strict=True) if cell
    ]  # fmt: skip
    line = Text("  ").join([first, *rest])
    return line if line.cell_len <= width else Group(first, *(Padding(one, (0, 0, 0, 2)) for one in rest))


def _one_line(cell: Any) -> Text:
    text = cell if isinstance(cell, Text) else Text(str(cell))
    return Text(" ").join(text.split("\n"))


def _plain_text(text: Text) -> Text:
    """The same of a text with styles, which move with their words."""
    if not ACTIVE.search(text.plain):
        return text
    places = list(accumulate((len(plain(letter)) for letter in text.plain), initial=0))
    shown = text.blank_copy(plain(text.plain))
    shown.spans = [Span(places[span.start], places[span.end], span.style) for span in text.spans]
    return shown


def print_json(content: Any) -> None:
    """Print content as JSON, in which active characters are escapes; a number that JSON has not is null."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, default=str)
    sys.stdout.write(ACTIVE.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def guard() -> None:
    """The same for warnings and tracebacks of this process, which Python prints; secrets in them are left out."""
    sys.excepthook = _print_traceback
    warnings.formatwarning = _format_warning


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(plain(scrubbed("".join(traceback.format_exception(kind, error, trace)))))


def _format_warning(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
    return plain(scrubbed(f"{filename}:{lineno}: {category.__name__}: {message}\n"))
