"""The program in an answer: the fenced block that the tests mean, among examples, outputs and drafts.

Fences are read as in Markdown: a line of three or more backticks or tildes, also indented, in a list or in a quotation.
Where that leaves no Python, the end of a block is looked for further down, indentation is taken away, and a fence that
the prompt opened counts. docs/grading.md has the rules.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

PYTHON = ("python", "py", "python3", "py3", "python2", "ipython", "sage")
FENCE = re.compile(
    r"(?P<before>[ \t>]*+(?:(?:[-*+]|\d{1,3}[.)])[ \t]++)?)(?P<fence>`{3,}+|~{3,}+)[ \t]*(?P<info>[^`]*)"
)
BEHIND_TEXT = re.compile(rf"(?P<before>)[^`]*?(?P<fence>`{{3,}}+)(?P<info>{'|'.join(PYTHON)})\s*", re.IGNORECASE)
INLINE = re.compile(r"```(?:py(?:thon)?3?[ \t]+)?([^`\n]+)```")
QUOTED = re.compile(r"^(?:[ \t]*> ?)+")
CODE = re.compile(r"(?:def|class|import|from|async def)\s|@\w")
READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\(0\b")
LONGEST, TRIES = 100_000, 24
"""Characters of a text that is parsed, and how often an answer is: a hostile one has thousands of fences."""


class Block(NamedTuple):
    """A fenced block: the word behind its fence, in small letters, and its lines."""

    language: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """What a program must have to be the one that is tested. names: what the tests use; reads: standard input."""

    names: frozenset[str] = frozenset()
    reads: bool = False


ANYTHING = Wanted()


@dataclass
class Part:
    """A text with the names that it defines and those that it uses; none if it is not Python."""

    text: str
    defines: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)

    def serves(self, wanted: Wanted) -> int:
        """How much of what is wanted it has."""
        return len(self.defines & wanted.names) + (wanted.reads and READS.search(self.text) is not None)


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


def program_of(text: str, wanted: Wanted = ANYTHING) -> str:
    """The last block that has what the tests want, with those before it that define what it uses.

    Blocks marked as Python are looked at first, then those without a mark, then all. Without a block, it is the answer.
    """
    parser = Parser()
    blocks = blocks_of(text, parser)
    marked = [block.text for block in blocks if block.language in PYTHON]
    bare = [block.text for block in blocks if not block.language]
    groups = [group for group in (marked, bare, [block.text for block in blocks]) if group]
    if not groups:
        return _unfenced(text, parser)
    if wanted != ANYTHING:
        for group in groups:
            if (found := _meant(group, wanted, parser)) is not None:
                return found
    return groups[0][-1]


@functools.lru_cache(maxsize=4096)
def names_used(test: str) -> frozenset[str]:
    """The names that a test takes from the program; none if the test is not Python."""
    part = _part(test, Parser())
    return frozenset(part.uses - part.defines)


def _meant(texts: Sequence[str], wanted: Wanted, parser: Parser) -> str | None:
    parts = [_part(text, parser) for text in texts[-TRIES:]]
    best = max(range(len(parts)), key=lambda i: (parts[i].serves(wanted), i))
    if not parts[best].serves(wanted):
        return None
    chosen = [parts[best]]
    missing = (wanted.names | chosen[0].uses) - chosen[0].defines
    for part in reversed(parts[:best]):
        if part.defines & missing:
            chosen, missing = [part, *chosen], (missing | part.uses) - part.defines
    return "\n".join(part.text for part in chosen)


def _part(text: str, parser: Parser) -> Part:
    part = Part(text)
    tree = parser.tree(text)
    for node in ast.walk(tree) if tree is not None else ():
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                part.defines.add(name)
            case ast.arg(arg=name):
                part.defines.add(name)
            case ast.alias(name=name, asname=other):
                part.defines.add(other or name.split(".")[0])
            case ast.Name(id=name, ctx=ast.Load()):
                part.uses.add(name)
            case ast.Name(id=name):
                part.defines.add(name)
    part.uses -= set(dir(builtins))
    return part


# -- blocks --------------------------------------------------------------------------------------------------------


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
            blocks.append(block)
    return blocks


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
        if (program := _parsable(code, parser)) is not None:
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


def _parsable(code: str, parser: Parser) -> str | None:
    """The code, or the code without its common indentation, if that is Python."""
    return next((text for text in (code, textwrap.dedent(code)) if parser.tree(text) is not None), None)


def _unfenced(text: str, parser: Parser) -> str:
    """The answer itself; without the prose before and after its code, if that makes it Python."""
    if parser.tree(text) is not None:
        return text
    if spans := [span for span in INLINE.findall(text) if parser.is_program(span)]:
        return str(spans[-1])
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if CODE.match(line)), None)
    if start is None:
        return text
    paragraphs = "\n".join(lines[start:]).split("\n\n")
    for end in range(len(paragraphs), max(0, len(paragraphs) - TRIES), -1):
        if parser.tree(program := "\n\n".join(paragraphs[:end])) is not None:
            return program
    return text
