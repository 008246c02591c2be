"""Keeps a third-party verifier from running what a model wrote: while it works, only arithmetic can be evaluated.

Verifiers evaluate answers as Python: reasoning-gym calls `eval`, and sympy's `parse_expr`, which calls `eval` on what
it made of the text, and again on every text inside it. So this module does not check the answer, but every source
that comes of it: the interpreter announces each source before it compiles it (PEP 578), and the hook here refuses all
but numbers, texts, lists and operators, variables of one letter, and the functions named below. These have no
attribute, index, lambda or other name, and so give no access to anything else. Towers of powers are refused too, which
would keep the verifier busy for years. This depends neither on the task nor on the version of the package.
"""

from __future__ import annotations

import ast
import functools
import math
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

PLAIN = (
    ast.Module, ast.Expr, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop, ast.expr_context,
)  # fmt: skip
CALLED = frozenset(
    "Symbol Integer Float Rational Function Add Mul Pow Abs sqrt exp log ln sin cos tan cot sec csc asin acos atan "
    "acot sinh cosh tanh coth asinh acosh atanh factorial".split()
)
"""The names that sympy's parser writes for symbols and numbers, and the functions of school mathematics."""
NAMED = CALLED | {"pi", "oo", "zoo", "nan"}
OWN = "from sympy import *"
"""The statement with which sympy's parser imports its functions."""

LARGEST = 100_000
"""The bits of the largest number that an answer may compute."""

_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)


def verified(verifier: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """What a verifier returns, and the sources that were refused. Raises what the verifier raises."""
    _listen()
    refused: list[str] = []
    token = _refused.set(refused)
    try:
        return verifier(*arguments), refused
    except Exception:
        if not refused:
            raise
        return None, refused
    finally:
        _refused.reset(token)


def is_arithmetic(source: str) -> bool:
    """Whether the source may be evaluated. Raises SyntaxError, as Python would, for text that is not Python."""
    try:
        tree = ast.parse(source)
        return all(map(_is_allowed, ast.walk(tree))) and _bits(tree) < LARGEST
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error)) from None


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return len(name) == 1 or name in NAMED
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in CALLED
    return isinstance(node, PLAIN)


def _bits(node: ast.AST) -> float:
    """An upper bound of the bits of all numbers in a source that `_is_allowed`; a variable counts as a small number."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return math.log2(abs(number) + 2)
        case ast.Call(func=ast.Name(id="Float" | "Integer" | "Rational"), args=[ast.Constant(value=str() as number)]):
            return math.log2(abs(float(number)) + 2)
        case (
            ast.BinOp(left=base, op=ast.Pow() | ast.LShift(), right=exponent)
            | ast.Call(func=ast.Name(id="Pow"), args=[base, exponent])
        ):
            return _bits(base) * 2 ** min(_bits(exponent), 64)
        case ast.Call(func=ast.Name(id="factorial"), args=[of]):
            return 2 ** min(_bits(of), 64) * _bits(of)
    return sum(_bits(part) for part in ast.iter_child_nodes(node)) or 1.0


@functools.cache
def _listen() -> None:
    # An audit hook cannot be removed; outside `verified` it does nothing.
    sys.addaudithook(_check)


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "compile" or (refused := _refused.get()) is None:
        return
    # Checking a source compiles it, too.
    token = _refused.set(None)
    try:
        source = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        # A syntax tree or None is refused: its source was never announced.
        allowed = isinstance(source, str) and (source.strip() == OWN or is_arithmetic(source))
    except UnicodeDecodeError:
        source, allowed = "", False
    finally:
        _refused.reset(token)
    if not allowed and not _is_importing():
        refused.append(str(source))
        raise PermissionError(f"not arithmetic, so it is not evaluated: {source!r:.80}")


def _is_importing() -> bool:
    """Whether the source belongs to a module that the verifier is importing."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code is not verified.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
