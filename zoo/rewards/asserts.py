"""Assertions judged where the program is not: the test that runs beside it asks for values, and keeps no answer.

`assert add(1, 2) == 3` runs in the program's interpreter as "tell the value of add(1, 2)", and 3 stays here. Whatever a
program makes of the interpreter that it shares with its tests, it then has to come up with the value. What cannot be
taken apart like that stays an assertion in the program's interpreter.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

TELL = "__tell__"
"""The name of the function by which a test tells a value; `sandboxed.py` gives it."""
NEAR: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {ast.Lt: operator.lt, ast.LtE: operator.le}
WAYS_OUT = (ast.Return, ast.Yield, ast.YieldFrom)
KINDS: dict[str, Callable[[Any], Any]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict, "bytes": bytes,
    "int": lambda parts: int(parts[0], 16), "complex": lambda parts: complex(*parts),
    "Fraction": lambda parts: Fraction(*map(int, parts)), "Decimal": lambda parts: Decimal(*parts),
}  # fmt: skip
Check = Callable[[Any], bool]


@dataclass
class Sealed:
    """A test without its answers. source: what the program's interpreter runs; checks: what each value must satisfy.

    needed: the checks that a test which comes to its end has gone through.
    """

    source: str
    checks: list[Check] = field(default_factory=list)
    needed: set[int] = field(default_factory=set)

    def holds(self, told: Sequence[Sequence[Any]]) -> bool:
        """Whether the values that were told, as pairs of a check's number and an encoded value, are the right ones."""
        try:
            return self.needed <= {i for i, _ in told} and all(self.checks[i](decoded(value)) for i, value in told)
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError):
            return False


@functools.lru_cache(maxsize=1024)
def sealed(test: str) -> Sealed:
    """A test taken apart; as it is, where nothing can be taken out of it, or where it is no Python."""
    found = Sealed(test)
    try:
        tree = _Sealer(found.checks).visit(ast.parse(test))
        if found.checks:
            found.source = ast.unparse(ast.fix_missing_locations(tree))
            found.needed = {_literal(call.args[0]) for call in _certain(tree)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Sealed(test)
    return found


def decoded(value: Any) -> Any:
    """A value as `encoded` of sandboxed.py writes it. Raises TypeError, ValueError or LookupError for anything else."""
    if not isinstance(value, list):
        return value
    kind, parts = value
    return KINDS[kind]([decoded(part) for part in parts])


class _Sealer(ast.NodeTransformer):
    """Replaces assertions by calls that tell a value, and collects what is to be checked of each."""

    def __init__(self, checks: list[Check]):
        self.checks = checks

    def visit_Assert(self, node: ast.Assert) -> Any:
        if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And):
            parts = (self.visit_Assert(ast.Assert(part)) for part in node.test.values)
            return [one for part in parts for one in (part if isinstance(part, list) else [part])]
        value, check = _taken_apart(node.test)
        if check is None:
            return node
        self.checks.append(check)
        called = ast.Call(ast.Name(TELL, ast.Load()), [ast.Constant(len(self.checks) - 1), value], [])
        return ast.Expr(called)

    def _left(self, node: ast.AST) -> ast.AST:
        return node

    # Here a test may want an assertion to fail, which one that only tells a value never does.
    visit_Try = visit_TryStar = visit_With = visit_AsyncWith = _left


def _taken_apart(test: ast.expr) -> tuple[ast.expr, Check | None]:
    """What is to be told of an assertion, and what must be true of it; no check where it cannot be judged here."""
    match test:
        case ast.Constant(value=constant):
            return ast.Constant(None), lambda value: bool(constant)
        case ast.Compare(left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(op=ast.Sub()) as gap]),
                         ops=[(ast.Lt() | ast.LtE()) as how], comparators=[limit]):  # fmt: skip
            within = NEAR[type(how)]
            told, other = (gap.right, gap.left) if _is_literal(gap.left) else (gap.left, gap.right)
            if _is_literal(limit) and _is_literal(other):
                near, most = _literal(other), _literal(limit)
                return told, lambda value: bool(within(abs(value - near), most))
        case ast.Compare(left=told, ops=[ast.Is()], comparators=[ast.Constant(value=None | True | False as only)]):
            return told, lambda value: value is only
        case ast.Compare(left=told, ops=[ast.Eq()], comparators=[other]):
            if _is_literal(told):
                told, other = other, told
            if _is_literal(other):
                expected = _literal(other)
                return told, lambda value: bool(value == expected)
        case ast.Call(func=ast.Name(id="isclose") | ast.Attribute(value=ast.Name(id="math"), attr="isclose"),
                      args=[told, other], keywords=within):  # fmt: skip
            if _is_literal(other) and all(_is_literal(one.value) for one in within):
                near, limits = _literal(other), {str(one.arg): _literal(one.value) for one in within}
                return told, lambda value: math.isclose(value, near, **limits)
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
    """The calls that tell a value and that a run to the test's end comes by: those of the test, and of its functions.

    Of functions, those that the test calls by a statement of its own, and that have no way out before their end.
    """
    called = {node.value.func.id for node in tree.body if isinstance(node, ast.Expr)
              and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)}  # fmt: skip
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    bodies = [tree.body] + [
        function.body
        for name, function in functions.items()
        if name in called and not any(isinstance(one, WAYS_OUT) for one in ast.walk(function))
    ]
    for node in (node for body in bodies for node in body):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call) if name == TELL:
                yield call
