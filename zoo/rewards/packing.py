"""Takes a program out of what it was packed in: HTML, JSON, odd fences, characters that no keyboard writes.

Each step leaves other texts as they are. Whether a step was right shows in its result: it is a program, or it is not.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator

LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85\x0b\x0c]")
INVISIBLE = re.compile("[\ufeff\u200b-\u200f\u2060\x00]")
BLANKS = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"'), "´": "`", "｀": "`"})
BREAK = re.compile(r"<br\s*/?>\n?", re.IGNORECASE)
ELEMENT = re.compile(r"</?(?:p|pre|code|div|span|html|body)\b[^<>]*>|<!\[CDATA\[|\]\]>", re.IGNORECASE)
PYTHON = r"(?:python3?|py)"
OPENED = re.compile(
    rf"^[ \t]*(?:(?P<quotes>'''|\"\"\"){PYTHON}?|`{{1,2}}{PYTHON}|\[code(?:=\w+)?\]|[-=~]{{3,}}"
    r"|\\begin\{(?:verbatim|lstlisting|minted)\}(?:\[[^\]]*\])?(?:\{\w+\})?|#\+begin_src\b.*)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
CLOSED = re.compile(
    r"(?:'''|\"\"\"|``?|\[/code\]|^[-=~]{3,}|\\end\{(?:verbatim|lstlisting|minted)\}|^#\+end_src)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
SPECIAL = re.compile(r"<\|[\w ]+\|>|</?s>|^[ \t]*(?:python3?|py)[ \t]*$", re.MULTILINE)
"""Tokens of chat templates, and the name of the language on a line of its own."""
TEXT = re.compile(r'(?<!\\)"(?=[^"\n]*\\n)(?:[^"\\\n]|\\.)*+"')
"""A text in JSON with the end of a line in it."""
ESCAPED = re.compile(r"\\([_*`#<>\[\](){}+.!-])")
PREFIX = re.compile(r"^(?:[ \t]*\d+ ?[:|.)]?(?=[ \t]|$)|\+(?!\+)|In \[\d+\]: | *\.\.\.: ?)", re.MULTILINE)
"""Numbers of lines, the + of a difference, the prompts of IPython."""
COMMAND = re.compile(r"^[ \t]*[%!]\w.*$", re.MULTILINE)
"""A line for IPython and not for Python."""


def with_plain_ends(text: str) -> str:
    """A text whose lines end as Python's do: it takes a carriage return alone for an end, too."""
    return re.sub("\r\n?", "\n", text)


def unpacked(text: str) -> Iterator[str]:
    """A text after each of the steps that changes it; each goes on from the one before."""
    for step in STEPS:
        changed = step(text)
        if changed != text:
            yield changed
            text = changed


def _characters(text: str) -> str:
    """Without invisible characters and halves of characters, with plain blanks, quotes and ends of lines."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return BLANKS.sub(" ", INVISIBLE.sub("", LINE_ENDS.sub("\n", text))).translate(QUOTES)


def _html(text: str) -> str:
    return BLANKS.sub(" ", html.unescape(ELEMENT.sub("\n", BREAK.sub("\n", text))))


def _fences(text: str) -> str:
    """With the fences of Markdown in place of others: the first that opens, and the last that closes."""
    text = SPECIAL.sub("", text.replace("\\`", "`"))
    opened = OPENED.search(text)
    closed = max(CLOSED.finditer(text, opened.end()), key=re.Match.end, default=None) if opened else None
    if not opened or not closed:
        return text
    return f"{text[: opened.start()]}```python{text[opened.end() : closed.start()]}\n```{text[closed.end() :]}"


def _texts_in_json(text: str) -> str:
    """The texts of several lines that are written as in JSON, as blocks; else a text with its \\n as ends of lines."""
    inside = [_decoded(found[0]) for found in TEXT.finditer(text)]
    if inside:
        return "\n".join(f"```python\n{program}\n```" for program in inside)
    return text.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')


def _decoded(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _markdown(text: str) -> str:
    return ESCAPED.sub(r"\1", text).replace("**", "")


def _prefixes(text: str) -> str:
    return PREFIX.sub("", COMMAND.sub("", text))


STEPS: tuple[Callable[[str], str], ...] = (
    _characters, _html, _html, _fences, _prefixes, _texts_in_json, _markdown
)  # fmt: skip
