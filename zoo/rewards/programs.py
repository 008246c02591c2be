"""The program in an answer: the fenced block that the tests mean, among examples, outputs and drafts.

Without a fence it is the answer, or a part of it. docs/grading.md has the rules.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from zoo.rewards.blocks import LONGEST, PYTHON, TRIES, Parser, blocks_of, parsable
from zoo.rewards.packing import unpacked, with_plain_ends

INLINE = re.compile(r"(`{1,3}+)(?:py(?:thon)?3?[ \t]+)?([^`\n]+)\1")
TAG = re.compile(
    r"^[ \t]*(?:</?[A-Za-z_]\w*>|\[/?[A-Z]{2,}\])|(?:</[A-Za-z_]\w*>|\[(?:/[A-Z]{2,}|DONE)\])[ \t]*$", re.MULTILINE
)
"""Around a program without a fence: <answer> and </answer>, [PYTHON] and [/PYTHON], [BEGIN] and [DONE]."""
CODE = re.compile(r"[ \t]*(?:(?:def|class|import|from|async def)\s|@\w)")
READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\(0\b|\bos\.read\(0\b")
DECLARATIONS = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign
)  # fmt: skip
SHORT = re.compile(r"\b(?:def|lambda|class|input|stdin)\b")
"""In a code span that may be a program."""
WRAPPINGS = frozenset(("lt", "gt", "amp", "quot", "nbsp", "python", "python3", "py"))
"""Names that a program does not use without defining them, but HTML and Markdown do."""
FEW = 3
"""Of tags and code spans the last few are looked at."""


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
    parses: bool = False
    declares: bool = False
    defines: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)

    def serves(self, wanted: Wanted) -> int:
        """How much of what is wanted it has."""
        return len(self.defines & wanted.names) + (wanted.reads and READS.search(self.text) is not None)


def program_of(text: str, wanted: Wanted = ANYTHING) -> str:
    """The last block that has what the tests want, with the blocks that define what it uses.

    Blocks marked as Python are looked at first, then those without a mark, then all. Without a block, it is the answer.
    Where that is not Python, or has nothing of what the tests want, it is looked for in what the text was packed in.
    """
    text = with_plain_ends(text)
    program = _program_of(text, wanted, Parser())
    if _fits(program, wanted):
        return program
    parser = Parser()
    others = (_program_of(other, wanted, parser) for other in unpacked(text[:LONGEST]))
    return next((other for other in others if _fits(other, wanted)), program)


def _fits(program: str, wanted: Wanted) -> bool:
    """Whether a text is Python, has what is wanted, and has no word of what it may be packed in."""
    part = _part(program, Parser())
    is_packed = (part.uses - part.defines) & WRAPPINGS
    return part.parses and not is_packed and (wanted == ANYTHING or part.serves(wanted) > 0)


def _program_of(text: str, wanted: Wanted, parser: Parser) -> str:
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
    part.parses = tree is not None
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
        if (program := parsable("\n\n".join(paragraphs[:end]), parser)) is not None:
            return program
    return text
