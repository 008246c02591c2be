"""Assertions judged outside the program's process: the test there reports values and holds no expected results.

`assert add(1, 2) == 3` runs in the program's interpreter as "report the value of add(1, 2)", and 3 stays in this
process. Whatever a program does to the interpreter that it shares with its tests, it still has to compute the value.
An assertion that cannot be split like this remains an assertion in the program's interpreter.
"""

from __future__ import annotations

import ast
import functools
import keyword
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

TELL = "__tell__"
"""The name of the function with which a test reports a value; `sandboxed.py` defines it."""
NEAR: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {ast.Lt: operator.lt, ast.LtE: operator.le}
WAYS_OUT = (ast.Return, ast.Yield, ast.YieldFrom)
KINDS: dict[str, Callable[[Any], Any]] = {
    "list": list, "tuple": tuple, "bytes": bytes, "set": lambda parts: set(_unlike(parts, parts)),
    "frozenset": lambda parts: frozenset(_unlike(parts, parts)),
    "dict": lambda parts: dict(_unlike(parts, [key for key, _ in parts])),
    "int": lambda parts: int(parts[0], 16), "complex": lambda parts: complex(*parts),
    "Fraction": lambda parts: Fraction(*map(_short, parts)), "Decimal": lambda parts: Decimal(*parts),
}  # fmt: skip
Check = Callable[[Any], bool]
LIKE, LONGEST = 1000, 1 << 16
"""How many elements of a set may have a hash that another has, and the bits of a number in a fraction: more would take
minutes to read, and only a program that is written for that reports them."""


@dataclass
class Sealed:
    """A test without its expected results. source: what the program's interpreter runs; checks: one per reported value.

    needed: the checks whose values a test must report if it runs to its end. function: the one that it calls, if it was
    made of arguments and a result.
    """

    source: str
    checks: list[Check] = field(default_factory=list)
    needed: set[int] = field(default_factory=set)
    function: str = ""

    def holds(self, reported: Sequence[Sequence[Any]]) -> bool:
        """Whether the reported values, as pairs of a check's number and an encoded value, are right."""
        try:
            return self.needed <= {i for i, _ in reported} and all(
                self.checks[i](decoded(value)) for i, value in reported
            )
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError):
            return False


@functools.lru_cache(maxsize=1024)
def sealed(test: str) -> Sealed:
    """A test without its expected results; unchanged if nothing can be taken out, or if it is not Python."""
    split_test = Sealed(test)
    try:
        tree = _Sealer(split_test.checks).visit(ast.parse(test))
        if split_test.checks:
            split_test.source = ast.unparse(ast.fix_missing_locations(tree))
            split_test.needed = {_literal(call.args[0]) for call in _certain(tree)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Sealed(test)
    return split_test


def called(function: str, arguments: Any, expected: Any) -> Sealed:
    """The test that a function, or the method of that name of a class Solution, gives a result for a list of arguments.

    Tuples count as lists, and a list of one as its element: data sets wrap results so. Raises TypeError or ValueError
    for what is no name, no list of arguments, or no value of JSON.
    """
    if not function.isidentifier() or keyword.iskeyword(function) or not isinstance(arguments, list | tuple):
        raise ValueError("no call")
    expected = _listed(ast.literal_eval(repr(expected)))
    wrapped = isinstance(expected, list) and len(expected) == 1

    def check(value: Any) -> bool:
        value = _listed(value)
        return bool(value == expected or (wrapped and value == expected[0]))

    source = f"{function} if {function!r} in globals() else Solution().{function}"
    source = f"{TELL}(0, ({source})(*{ast.literal_eval(repr(list(arguments)))!r}))"
    return Sealed(source, [check], {0}, function)


def _listed(value: Any) -> Any:
    """A value with lists for its tuples."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def decoded(value: Any) -> Any:
    """A value as `encoded` of sandboxed.py writes it. Raises TypeError, ValueError or LookupError for anything else."""
    if not isinstance(value, list):
        return value
    kind, parts = value
    return KINDS[kind]([decoded(part) for part in parts])


def _unlike(parts: list[Any], keys: list[Any]) -> list[Any]:
    """The parts of a set or dictionary, unless too many keys have equal hashes. Raises ValueError."""
    if len(keys) - len(set(map(hash, keys))) > LIKE:
        raise ValueError("too many elements with the same hash")
    return parts


def _short(number: Any) -> int:
    """A part of a fraction. Raises ValueError if it is long, TypeError if it is no number."""
    if operator.index(number).bit_length() > LONGEST:
        raise ValueError("too long a number for a fraction")
    return int(number)


class _Sealer(ast.NodeTransformer):
    """Replaces assertions by calls that report a value, and collects the checks of these values."""

    def __init__(self, checks: list[Check]):
        self.checks = checks

    def visit_Assert(self, node: ast.Assert) -> Any:
        if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And):
            parts = (self.visit_Assert(ast.Assert(part)) for part in node.test.values)
            return [statement for part in parts for statement in (part if isinstance(part, list) else [part])]
        value, check = _taken_apart(node.test)
        if check is None:
            return node
        self.checks.append(check)
        called = ast.Call(ast.Name(TELL, ast.Load()), [ast.Constant(len(self.checks) - 1), value], [])
        return ast.Expr(called)

    def _left(self, node: ast.AST) -> ast.AST:
        return node

    # A test may expect an assertion to fail here, and a call that reports a value never fails.
    visit_Try = visit_TryStar = visit_With = visit_AsyncWith = _left


def _taken_apart(test: ast.expr) -> tuple[ast.expr, Check | None]:
    """The expression to report for an assertion, and its check; no check if it cannot be judged in this process."""
    match test:
        case ast.Constant(value=constant):
            return ast.Constant(None), lambda value: bool(constant)
        case ast.Compare(left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(op=ast.Sub()) as gap]),
                         ops=[(ast.Lt() | ast.LtE()) as how], comparators=[limit]):  # fmt: skip
            within = NEAR[type(how)]
            reported, other = (gap.right, gap.left) if _is_literal(gap.left) else (gap.left, gap.right)
            if _is_literal(limit) and _is_literal(other):
                near, most = _literal(other), _literal(limit)
                return reported, lambda value: bool(within(abs(value - near), most))
        case ast.Compare(left=reported, ops=[ast.Is()], comparators=[ast.Constant(value=None | True | False as only)]):
            return reported, lambda value: value is only
        case ast.Compare(left=reported, ops=[ast.Eq()], comparators=[other]):
            if _is_literal(reported):
                reported, other = other, reported
            if _is_literal(other):
                expected = _literal(other)
                return reported, lambda value: bool(value == expected)
        case ast.Call(func=ast.Name(id="isclose") | ast.Attribute(value=ast.Name(id="math"), attr="isclose"),
                      args=[reported, other], keywords=within):  # fmt: skip
            if _is_literal(other) and all(_is_literal(keyword.value) for keyword in within):
                near, limits = _literal(other), {str(keyword.arg): _literal(keyword.value) for keyword in within}
                return reported, lambda value: math.isclose(value, near, **limits)
    return test, None


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(node)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
        return True
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def _certain(tree: ast.Module) -> Iterator[ast.Call]:
    """The reporting calls that a run to the test's end must reach: those of the test itself and of its functions.

    A function counts if the test calls it in a statement of its own, and if it cannot return before its end.
    """
    called = {node.value.func.id for node in tree.body if isinstance(node, ast.Expr)
              and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)}  # fmt: skip
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    bodies = [tree.body] + [
        function.body
        for name, function in functions.items()
        if name in called and not any(isinstance(node, WAYS_OUT) for node in ast.walk(function))
    ]
    for node in (node for body in bodies for node in body):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call) if name == TELL:
                yield call
