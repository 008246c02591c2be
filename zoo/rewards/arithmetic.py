"""Somebody else's verifier, kept from running what a model wrote: while it looks, only arithmetic can be evaluated.

Verifiers evaluate answers as Python: reasoning-gym does by `eval`, and by sympy's `parse_expr`, which calls `eval` on
what it made of the text, and again on every text within it. So the place to look is not the answer, but what comes of
it: the interpreter announces each source before it compiles it (PEP 578), and here all are refused but numbers, texts,
lists and operators, variables of one letter, and the functions named below. There is no attribute, index, lambda or
other name in these, hence no way to anything else. No task has to be known for that, and no version of the package.
"""

from __future__ import annotations

import ast
import functools
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
"""What sympy's parser writes for symbols and numbers, and the functions of school mathematics."""
NAMED = CALLED | {"pi", "oo", "zoo", "nan"}
OWN = "from sympy import *"
"""The one statement that sympy's parser runs, to have its functions at hand."""

_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)


def verified(verifier: Callable[..., Any], *given: Any) -> tuple[Any, list[str]]:
    """What a verifier returns, and the sources that it was kept from evaluating. Raises what the verifier raises."""
    _listen()
    refused: list[str] = []
    token = _refused.set(refused)
    try:
        return verifier(*given), refused
    except Exception:
        if not refused:
            raise
        return None, refused
    finally:
        _refused.reset(token)


def is_arithmetic(source: str) -> bool:
    """Whether this may be evaluated. Raises SyntaxError, as Python would, for what is no Python at all."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error)) from None
    return all(map(_is_allowed, nodes))


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return len(name) == 1 or name in NAMED
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in CALLED
    return isinstance(node, PLAIN)


@functools.cache
def _listen() -> None:
    # A hook cannot be taken out again; outside of `verified` it does nothing.
    sys.addaudithook(_check)


def _check(event: str, given: tuple[Any, ...]) -> None:
    if event != "compile" or (refused := _refused.get()) is None:
        return
    # To look at a source is to compile it, too.
    token = _refused.set(None)
    try:
        source = given[0].decode() if isinstance(given[0], bytes) else given[0]
        # A syntax tree, or nothing: who compiles these has a source that was not announced.
        allowed = isinstance(source, str) and (source.strip() == OWN or is_arithmetic(source))
    except UnicodeDecodeError:
        source, allowed = "", False
    finally:
        _refused.reset(token)
    if not allowed and not _is_importing():
        refused.append(str(source))
        raise PermissionError(f"not arithmetic, so it is not evaluated: {source!r:.80}")


def _is_importing() -> bool:
    """Whether what is compiled belongs to a module that the verifier imports only now."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code is not verified.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
