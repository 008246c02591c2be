"""The language of `--reward` and of mixtures in `--data`: names, numbers and operators.

    0.8*instructions + 0.2*length(target=60)
    mean(runs/reward-1, runs/reward-2) - 0.5*var(runs/reward-1, runs/reward-2)
    0.7*chat.jsonl + 0.3*maths(limit=1000)

A name is the text between blanks, brackets, commas, `+`, `*` and `=`. It may be a path, so `-` and `/` are part of a
name, and a minus or a division after a name needs a blank before it. In quotation marks, a name or an option may hold
any other character: `regex(pattern='\\d+ (kg|g)')`. Python's own parser reads the rest, and only the nodes named here
are accepted: nothing is executed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.limits import EXPRESSION

NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?=[\s()+*/,-]|$)")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
NAME = re.compile(r"[^\s()+*,='\"-][^\s()+*,=]*")
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def variance(values: list[float]) -> float:
    """The variance, divided by n as where the code of arXiv:2310.02743 picks samples (in training it takes n − 1)."""
    middle = mean(values)
    return sum((value - middle) ** 2 for value in values) / len(values)


COMBINATIONS: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max, "mean": mean, "var": variance}


@dataclass(frozen=True)
class Mention:
    """What an expression names, with the options in its brackets. at: its position in the text."""

    name: str
    options: tuple[tuple[str, float | str], ...] = ()
    at: int = field(default=0, compare=False)

    @property
    def label(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name}({options})" if options else self.name


DEEPEST = 200
"""Operators inside each other; a sum of so many terms is as deep."""


class Expression:
    """A parsed text. `mentions`: the rewards that it names, each once. Raises ZooError that points at the place."""

    title, whole, item = "Reward", "reward", "reward"
    """What errors call the text, what it makes, and what it names."""
    number = NUMBER
    operations = OPERATIONS
    combinations = COMBINATIONS
    allowed = "Use names, numbers, + - * / and brackets."

    def __init__(self, text: str):
        self.text = text
        if not text.strip():
            raise self.error(f"no {self.item} is named here", 0)
        if len(text) > EXPRESSION:
            raise ZooError(f"The {self.whole} has {len(text):,} characters; at most {EXPRESSION:,} are read.")
        masked, self._names = self._mask()
        try:
            # Brackets let an expression continue over lines; a masked name has its original length, so positions agree.
            tree = ast.parse(f"({masked})", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = (getattr(error, "offset", None) or len(text)) - 2
            raise self.error("this cannot be read", place, self.allowed) from None
        self._found: list[Mention] = []
        if _depth(tree) > DEEPEST:
            raise self.error("its brackets and operators are too deep inside each other", 0)
        self._tree = self._read(tree)
        self.mentions = list(dict.fromkeys(self._found))
        if not self.mentions:
            raise self.error(f"no {self.item} is named here", 0)

    def value(self, values: Mapping[Mention, float | None]) -> float | None:
        """The value for one answer from the values of the mentions; None if one is missing or a divisor is 0."""
        if any(values[mention] is None for mention in self.mentions):
            return None
        try:
            return float(self._tree(values))
        except (ZeroDivisionError, OverflowError):
            return None

    def error(self, message: str, at: int, hint: str = "", guess: str = "") -> ZooError:
        """An error that points at a place; guess: as `nearest` gives it."""
        at = min(max(at, 0), len(self.text))
        pointer = f"\n  {' '.join(self.text.splitlines())}\n  {' ' * at}^"
        return ZooError(f"{self.title}, character {at + 1}: {message}.{guess}{pointer}", hint)

    # -- text to tree --------------------------------------------------------------------------------------------

    def _mask(self) -> tuple[str, dict[int, str]]:
        """The text with every character of a name replaced by n, and the names by the position where they begin."""
        masked, names = "", {}
        operand, depth = True, 0
        while len(masked) < len(self.text):
            at = len(masked)
            number = self.number.match(self.text, at) if operand else None
            quoted = QUOTED.match(self.text, at) if operand else None
            name = quoted or NAME.match(self.text, at) if operand and not number else None
            if number:
                masked, operand = masked + number[0], False
            elif name:
                names[at] = name[0][1:-1] if quoted else name[0]
                masked, operand = masked + "n" * len(name[0]), False
            elif (character := self.text[at]).isspace():
                masked += " "
            elif character in "()+-*/,=":
                depth += (character == "(") - (character == ")")
                if depth < 0:
                    # Python would read it with the brackets that are put around the text.
                    raise self.error("this bracket closes none", at)
                masked, operand = masked + character, character != ")"
            elif operand and character in "'\"":
                raise self.error("this quotation mark is not closed", at)
            else:
                raise self.error(f"{character!r} has no meaning here", at)
        return masked, names

    def _read(self, node: ast.expr) -> Callable[[Mapping[Mention, Any]], Any]:
        """A function from the values of the mentions to the value of a node."""
        at = node.col_offset - 1
        match node:
            case ast.Constant(value=int() | float() as number):
                return lambda given: number
            case ast.Name():
                return self._mention(Mention(self._names[at], (), at))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                sign, value = -1 if isinstance(node.op, ast.USub) else 1, self._read(inner)
                return lambda given: sign * value(given)
            case ast.BinOp() if type(node.op) in self.operations:
                left, right, operation = self._read(node.left), self._read(node.right), self.operations[type(node.op)]
                return lambda given: operation(left(given), right(given))
            case ast.Call(func=ast.Name()):
                return self._call(node, self._names[at])
        raise self.error(f"this is not allowed in a {self.whole}", at, self.allowed)

    def _call(self, node: ast.Call, name: str) -> Callable[[Mapping[Mention, Any]], Any]:
        at = node.col_offset - 1
        if name in self.combinations:
            if node.keywords or len(node.args) < 2:
                raise self.error(f"{name} takes two {self.item}s or more", at, f"Write {name}(runs/a, runs/b).")
            values, combine = [self._read(argument) for argument in node.args], self.combinations[name]
            return lambda given: combine([value(given) for value in values])
        if node.args:
            names = ", ".join(self.combinations) or "none; options are written NAME=VALUE"
            guess = nearest(name, self.combinations)
            raise self.error(f"'{name}' does not combine {self.item}s", at, f"Combinations: {names}.", guess)
        return self._mention(Mention(name, tuple(self._options(node)), at))

    def _options(self, node: ast.Call) -> Iterator[tuple[str, float | str]]:
        for keyword in node.keywords:
            key = self._names[keyword.col_offset - 1] if keyword.arg else "**"
            match keyword.value:
                case ast.Constant(value=int() | float() as number):
                    yield key, number
                case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                    yield key, -number
                case ast.Name():
                    yield key, self._names[keyword.value.col_offset - 1]
                case _:
                    raise self.error(f"{key} must be a number or a word", keyword.value.col_offset - 1)

    def _mention(self, mention: Mention) -> Callable[[Mapping[Mention, Any]], Any]:
        self._found.append(mention)
        return lambda given: given[mention]


def _depth(tree: ast.AST) -> int:
    """How many nodes of a tree lie inside each other."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth
