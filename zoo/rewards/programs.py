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
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

PYTHON = ("python", "py", "python3", "py3", "python2", "ipython", "pycon", "sage")
MARKDOWN = ("markdown", "md", "")
FENCE = re.compile(
    r"(?P<before>[ \t>]*+(?:(?:[-*+]|\d{1,3}[.)])[ \t]++)?)(?P<fence>`{3,}+|~{3,}+)[ \t]*(?P<info>[^`]*)"
)
BEHIND_TEXT = re.compile(rf"(?P<before>)[^`]*?(?P<fence>`{{3,}}+)(?P<info>{'|'.join(PYTHON)})\s*", re.IGNORECASE)
INLINE = re.compile(r"(`{1,3}+)(?:py(?:thon)?3?[ \t]+)?([^`\n]+)\1")
TAG = re.compile(
    r"^[ \t]*(?:</?[A-Za-z_]\w*>|\[/?[A-Z]{2,}\])|(?:</[A-Za-z_]\w*>|\[(?:/[A-Z]{2,}|DONE)\])[ \t]*$", re.MULTILINE
)
"""Around a program without a fence: <answer> and </answer>, [PYTHON] and [/PYTHON], [BEGIN] and [DONE]."""
QUOTED = re.compile(r"^(?:[ \t]*> ?)+")
CODE = re.compile(r"[ \t]*(?:(?:def|class|import|from|async def)\s|@\w)")
TYPED = re.compile(r"^(?:>>>|\.\.\.)(?: |$)(.*)", re.MULTILINE)
"""A line that somebody typed at Python's prompt, among lines that it printed."""
READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\(0\b|\bos\.read\(0\b")
DECLARATIONS = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign
)  # fmt: skip
SHORT = re.compile(r"\b(?:def|lambda|class|input|stdin)\b")
"""In a code span that may be a program."""
LONGEST, TRIES, FEW = 100_000, 24, 3
"""Characters of a text that is parsed, and how often an answer is: a hostile one has thousands of fences. Of tags and
code spans the last few are looked at."""


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
    """A text with the names that it defines and those that it uses; none if it is not Python.

    declares: it has imports, definitions and assignments alone.
    """

    text: str
    declares: bool = False
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
    """The last block that has what the tests want, with the blocks that define what it uses.

    Blocks marked as Python are looked at first, then those without a mark, then all. Without a block, it is the answer.
    """
    parser = Parser()
    blocks = blocks_of(text, parser)
    marked = [block.text for block in blocks if block.language in PYTHON]
    bare = [block.text for block in blocks if not block.language]
    groups = [group for group in (marked, bare, [block.text for block in blocks]) if group]
    if not groups:
        return _unfenced(text, wanted, parser)
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
    for part in parts[best + 1 :]:
        if part.declares and part.defines & missing:
            # What the program needs at once stands before it.
            chosen, missing = [part, *chosen], missing - part.defines
    return "\n".join(part.text for part in chosen)


def _part(text: str, parser: Parser) -> Part:
    part = Part(text)
    foreign: set[int] = set()
    tree = parser.tree(text)
    part.declares = tree is not None and all(isinstance(node, DECLARATIONS) for node in tree.body)
    for node in ast.walk(tree) if tree is not None else ():
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                part.defines.add(name)
            case ast.arg(arg=name):
                part.defines.add(name)
            case ast.ImportFrom(module=module, level=level) if level or _is_foreign(str(module)):
                # An example that imports the program.
                part.uses.update(alias.name for alias in node.names)
                foreign.update(map(id, node.names))
            case ast.alias(name=name, asname=other) if id(node) not in foreign:
                part.defines.add(other or name.split(".")[0])
            case ast.Name(id=name, ctx=ast.Load()):
                part.uses.add(name)
            case ast.Name(id=name):
                part.defines.add(name)
    part.uses -= set(dir(builtins))
    return part


def _is_foreign(module: str) -> bool:
    """Whether a module is not Python's own: a program has no other."""
    return module.split(".")[0] not in sys.stdlib_module_names


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
    """The code, without its common indentation or as it was typed at Python's prompt, if that is Python."""
    dedented = textwrap.dedent(code)
    texts = dict.fromkeys((code, dedented, _typed(dedented)))
    return next((text for text in texts if parser.tree(text) is not None), None)


def _typed(code: str) -> str:
    """The lines behind the prompts, without what Python printed, if the code begins with a prompt."""
    return "".join(f"{line}\n" for line in TYPED.findall(code)) if code.lstrip().startswith(">>>") else code


def _unfenced(text: str, wanted: Wanted, parser: Parser) -> str:
    """The answer itself, a part of it between tags or in a line, or its code without the prose before and after it."""
    if parser.tree(text) is not None:
        return text
    parts = [part for part in TAG.split(text) if part.strip()]
    programs = [part for part in parts[-FEW:] if parser.is_program(part)]
    if (found := _meant(programs, wanted, parser) if programs else None) is not None:
        return found
    spans = [found.groups() for found in INLINE.finditer(text) if len(found[1]) == 3 or SHORT.search(found[2])]
    spans = [(marks, span) for marks, span in spans[-FEW:] if parser.is_program(span)]
    if (found := _meant([span for _, span in spans], wanted, parser) if spans else None) is not None:
        return found
    fenced = [span for marks, span in spans if len(marks) == 3]
    return fenced[-1] if fenced else _without_prose(TAG.sub("\n\n", text), parser)


def _without_prose(text: str, parser: Parser) -> str:
    """The text from its first line of code to its last paragraph of code; all of it if that is not Python."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if CODE.match(line)), None)
    if start is None:
        return text
    paragraphs = "\n".join(lines[start:]).split("\n\n")
    for end in range(len(paragraphs), max(0, len(paragraphs) - TRIES), -1):
        if (program := _parsable("\n\n".join(paragraphs[:end]), parser)) is not None:
            return program
    return text
