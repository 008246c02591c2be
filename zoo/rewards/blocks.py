"""The fenced blocks of an answer, read as in Markdown, and whether a text is Python.

A fence is a line of three or more backticks or tildes, also indented, in a list or in a quotation. Where that leaves no
Python, the end of a block is looked for further down, indentation is taken away, and a fence that the prompt opened
counts.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import NamedTuple

PYTHON = ("python", "py", "python3", "py3", "python2", "ipython", "pycon", "sage")
MARKDOWN = ("markdown", "md", "")
FENCE = re.compile(
    r"(?P<before>[ \t>]*+(?:(?:[-*+]|\d{1,3}[.)])[ \t]++)?)(?P<fence>`{3,}+|~{3,}+)[ \t]*(?P<info>[^`]*)"
)
BEHIND_TEXT = re.compile(rf"(?P<before>)[^`]*?(?P<fence>`{{3,}}+)(?P<info>{'|'.join(PYTHON)})\s*", re.IGNORECASE)
QUOTED = re.compile(r"^(?:[ \t]*> ?)+")
TYPED = re.compile(r"^(?:>>>|\.\.\.)(?: |$)(.*)", re.MULTILINE)
"""A line that somebody typed at Python's prompt, among lines that it printed."""
LONGEST, TRIES = 100_000, 24
"""Characters of a text that is parsed, and how often an answer is: a hostile one has thousands of fences."""


class Block(NamedTuple):
    """A fenced block: the word behind its fence, in small letters, and its lines."""

    language: str
    text: str


class Parser:
    """Parses texts as Python, a bounded number of times."""

    def __init__(self) -> None:
        self.tries = TRIES

    def tree(self, text: str) -> ast.Module | None:
        """The tree of a text, None if it is not Python or too long, or if there were too many."""
        self.tries -= 1
        if self.tries < 0 or len(text) > LONGEST:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return ast.parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return None

    def is_program(self, text: str) -> bool:
        """Whether a text is Python, and more than a word or a number."""
        tree = self.tree(text)
        return tree is not None and not all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Name | ast.Constant) for node in tree.body
        )


def blocks_of(text: str, parser: Parser) -> list[Block]:
    """The fenced blocks of a text."""
    lines = text.split("\n")
    blocks: list[Block] = []
    i = 0
    while i < len(lines):
        opened = FENCE.fullmatch(lines[i].rstrip()) or BEHIND_TEXT.fullmatch(lines[i].rstrip())
        if not opened:
            i += 1
        elif not blocks and not opened["info"] and parser.is_program(before := "\n".join(lines[:i])):
            # The prompt ended with the fence that opens the block.
            blocks.append(Block(PYTHON[0], before))
            i += 1
        else:
            block, i = _block(lines, i, opened, parser)
            within = blocks_of(block.text, parser) if _holds_fences(block, parser) else []
            blocks += within or [block]
    return blocks


def _holds_fences(block: Block, parser: Parser) -> bool:
    """Whether a block is a text in Markdown with blocks of its own."""
    is_text = block.language in MARKDOWN and any(FENCE.fullmatch(line.rstrip()) for line in block.text.split("\n"))
    return is_text and parser.tree(block.text) is None


def _block(lines: Sequence[str], at: int, opened: re.Match[str], parser: Parser) -> tuple[Block, int]:
    """The block that is opened in a line, and the number of the line behind it."""
    language = re.split(r"[\s:,{}=]", opened["info"].strip().lstrip("{."))[0].lower()
    quoted = ">" in opened["before"]
    inside: list[str] = []
    first: tuple[str, int] | None = None
    for i in range(at + 1, len(lines)):
        line = QUOTED.sub("", lines[i]) if quoted else lines[i]
        last, ends, behind = _closed(line, opened["fence"])
        if not ends:
            inside.append(line)
            continue
        code = _dedented([*inside, *last], opened["before"])
        if language and language not in PYTHON:
            return Block(language, code), behind + i
        if (program := parsable(code, parser)) is not None:
            return Block(language, program), behind + i
        first = first or (code, behind + i)
        if parser.tries < 1:
            break
        inside.append(line)
    if first is None:
        # Cut off.
        return Block(language, _dedented(inside, opened["before"])), len(lines)
    return Block(language, first[0]), first[1]


def _closed(line: str, fence: str) -> tuple[list[str], bool, int]:
    """What a line adds to a block, whether it may end it, and whether the next line (1) or this one (0) comes after."""
    if found := FENCE.fullmatch(line.rstrip()):
        same = found["fence"][0] == fence[0] and len(found["fence"]) >= len(fence)
        return [], same, 0 if found["info"] else 1
    if line.rstrip().endswith(fence) and line.strip("`~ \t\r"):
        return [line.rstrip().removesuffix(fence)], True, 1
    return [], False, 0


def _dedented(lines: Sequence[str], before: str) -> str:
    """The lines without the indentation of the fence."""
    width = len(before.expandtabs(4)) if ">" not in before else 0
    cut = [line.expandtabs(4) if width else line for line in lines]
    cut = [line[min(width, len(line) - len(line.lstrip())) :] for line in cut]
    return "".join(f"{line}\n" for line in cut)


def parsable(code: str, parser: Parser) -> str | None:
    """The code, without its common indentation or as it was typed at Python's prompt, if that is Python."""
    dedented = textwrap.dedent(code)
    texts = dict.fromkeys((code, dedented, _typed(dedented)))
    return next((text for text in texts if parser.tree(text) is not None), None)


def _typed(code: str) -> str:
    """The lines behind the prompts, without what Python printed, if the code begins with a prompt."""
    return "".join(f"{line}\n" for line in TYPED.findall(code)) if code.lstrip().startswith(">>>") else code
