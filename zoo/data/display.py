"""How `zoo data` prints tokens and numbers on any console.

The text of a data set is printed, never interpreted: markup is plain text, and a control code is written out (`\\x1b`).
The output adapts to the console: without colours it uses marks, and a limited encoding gets plain letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.console import ConsoleOptions, RenderResult
from rich.text import Text

from zoo.data.encoding.template import ChatTemplate
from zoo.terminal import Console

LONGEST = 1500
"""Most characters shown of one text; the middle of a longer text is left out."""
WIDEST_BAR = 40
JOINERS = "\u200c\u200d"
"""Invisible, but parts of ordinary words and emoji."""
PLAIN_LETTERS = (("…", "..."), ("–", "-"), ("█", "#"))


class Piece(NamedTuple):
    """The text of consecutive tokens: all of them are trained or none, all are special or none."""

    text: str
    trained: bool
    special: bool


def pieces_of(
    template: ChatTemplate, ids: list[int], mask: list[bool] | None = None, *, before: Sequence[int] = ()
) -> list[Piece]:
    """Token ids as pieces of text; without a mask no token is trained. `before`: the ids that precede them.

    A piece is what its tokens add to the decoded text: some tokenizers decode a token differently at a text's start.
    """
    kinds = zip(mask or [False] * len(ids), (number in template.tokens.special_ids for number in ids), strict=True)
    seen, decoded, pieces = list(before), template.tokenizer.decode(list(before)), []
    start = 0
    for (trained, special), group in groupby(kinds):
        stretch = ids[start : (start := start + len(list(group)))]
        seen += stretch
        text = template.tokenizer.decode(seen)
        grown = text[len(decoded) :] if text.startswith(decoded) else template.tokenizer.decode(stretch)
        pieces.append(Piece(grown, bool(trained), special))
        decoded = text
    return pieces


def shortened(pieces: list[Piece], longest: int = LONGEST) -> list[Piece]:
    """Pieces of at most `longest` characters: two thirds from the start, one third from the end, a count in between."""
    length = sum(len(piece.text) for piece in pieces)
    if length <= longest:
        return pieces
    front, end = longest * 2 // 3, length - longest // 3
    gap = Piece(f" [… {end - front:,} characters left out …] ", False, False)
    head = _cut(pieces, 0, front)
    return [*head, gap, *_cut(pieces, end, length)]


def _cut(pieces: list[Piece], start: int, end: int) -> list[Piece]:
    """The characters from `start` to `end` of the joined pieces."""
    kept, place = [], 0
    for piece in pieces:
        text = piece.text[max(start - place, 0) : max(end - place, 0)]
        place += len(piece.text)
        kept += [piece._replace(text=text)] if text else []
    return kept


def has_colour(console: Console) -> bool:
    """Whether the console can show the colour of trained tokens."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def printable(text: str, console: Console) -> str:
    """The text of a data set for the console: line breaks are marked and kept, control codes are written out."""
    signs = {"\n": "↵\n", "\t": "→\t"} if _can_print("↵→", console) else {"\n": "\\n\n", "\t": "\\t\t"}
    shown = "".join(
        signs.get(c) or (c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode()) for c in text
    )
    return in_encoding(shown, console)


def in_encoding(text: str, console: Console) -> str:
    """The text, with escapes for characters that the console's encoding cannot write."""
    for sign, plain in PLAIN_LETTERS:
        text = text if _can_print(sign, console) else text.replace(sign, plain)
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _can_print(text: str, console: Console) -> bool:
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True


def marks(console: Console) -> tuple[str, str]:
    """The marks around trained tokens on a console without colour."""
    return ("⟦", "⟧") if _can_print("⟦⟧", console) else ("[[", "]]")


class Line:
    """One line of plain text, either zoo's own or from a data set."""

    def __init__(self, text: str, style: str = ""):
        self.text, self.style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = (printable(line, console) for line in self.text.split("\n"))
        yield Text("\n".join(lines), style=self.style, overflow="fold")


class Legend:
    """Explains how trained tokens are shown."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if has_colour(console):
            yield Text.assemble("Trained tokens are ", ("green", "green"), ", all others are not trained.")
        else:
            opening, closing = marks(console)
            yield Text(f"Trained tokens are between {opening} and {closing}.")


class TokenText:
    """Tokens as text, the trained ones green or marked, special ones faint or bold."""

    def __init__(self, pieces: list[Piece]):
        self.pieces = shortened(pieces)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        opening, closing = ("", "") if has_colour(console) else marks(console)
        text = Text(overflow="fold")
        for trained, group in groupby(self.pieces, key=lambda piece: piece.trained):
            text.append(opening if trained else "")
            for piece in group:
                style = ("bold " if piece.special else "") + "green" if trained else ("dim" if piece.special else "")
                text.append(printable(piece.text, console), style=style)
            text.append(closing if trained else "")
        # The console itself adds the line break after the last character.
        text.rstrip()
        yield text


class Histogram:
    """Bars with the bin on the left and the count on the right; consecutive empty bins become one `…`."""

    def __init__(self, bins: list[tuple[int, int | None, int]]):
        self.bins = bins

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [_span(first, last) for first, last, _ in self.bins]
        counts = [f"{count:,}" for _, _, count in self.bins]
        margin, room = max(map(len, names)), max(map(len, counts))
        width = max(1, min(WIDEST_BAR, options.max_width - margin - room - 4))
        most = max(count for _, _, count in self.bins)
        for k, (name, (_, _, count), number) in enumerate(zip(names, self.bins, counts, strict=True)):
            if not count:
                if self.bins[k - 1][2]:
                    yield Text(in_encoding(f"  {'…':>{margin}}", console), no_wrap=True)
                continue
            bar = "█" * -(-count * width // most)
            yield Text(in_encoding(f"  {name:>{margin}} {bar} {number}", console), no_wrap=True)


def _span(first: int, last: int | None) -> str:
    if last is None:
        return f"{first:,}+"
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"
