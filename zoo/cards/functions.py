"""Short functions of a plugin that can run without it: the rules of its options, and the roles that these need.

Such a function reads only its arguments and a few names: parts of the standard library, `require`, constants, and
similar helpers. Then its own source, taken from the plugin's file, can run alone. If it reads anything else, the plugin
must be imported.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from zoo.cards.values import Unwritable, value_out

LIGHT = ("zoo.options.fields", "zoo.errors", "zoo.options.spelling")
"""Modules of zoo that load nothing heavy."""


def function_out(function: Any, forbidden: Collection[str]) -> dict[str, Any]:
    """The place of a function's source, and the names that it reads. Raises Unwritable if it needs its plugin.

    forbidden: attributes that its arguments have only within the plugin.
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_freevars or function.__defaults__ or function.__kwdefaults__:
        raise Unwritable(f"{function} depends on its context")
    if clash := set(_attributes(code)) & set(forbidden):
        raise Unwritable(f"{function} reads {clash}")
    _node(Path(code.co_filename).read_text(encoding="utf-8"), function.__name__, code.co_firstlineno)
    namespace = function.__globals__
    names = [name for name in dict.fromkeys(_globals(code)) if name in namespace or not hasattr(builtins, name)]
    reads = {name: _global_out(namespace.get(name), function, forbidden) for name in names}
    return {"file": code.co_filename, "name": function.__name__, "line": code.co_firstlineno, "reads": reads}


def function_in(written: dict[str, Any]) -> Callable[..., Any]:
    """The function, made from its source."""
    node = _node(Path(written["file"]).read_text(encoding="utf-8"), written["name"], written["line"])
    space = {name: _global_in(global_value) for name, global_value in written["reads"].items()}
    flags = __future__.annotations.compiler_flag
    # This is source of the plugin's own file, which an import would run too.
    exec(compile(ast.Module([node], []), written["file"], "exec", flags, dont_inherit=True), space)
    return space[written["name"]]


def _node(source: str, name: str, line: int) -> ast.FunctionDef:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (node.name, node.lineno) == (name, line) and not node.decorator_list:
            return node
    raise Unwritable(f"{name} is not written as a plain function")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals(code: CodeType) -> list[str]:
    """The names that code reads from its module. Raises Unwritable if it writes one."""
    names = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"):
            raise Unwritable(f"{instruction.opname} {instruction.argval}")
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.append(str(instruction.argval))
    return names + [name for inner in list(_codes(code))[1:] for name in _globals(inner)]


def _attributes(code: CodeType) -> Iterator[str]:
    for inner in _codes(code):
        yield from inner.co_names


def _global_out(value: Any, function: Any, forbidden: Collection[str]) -> dict[str, Any]:
    if isinstance(value, ModuleType):
        if value.__name__.split(".")[0] in sys.stdlib_module_names:
            return {"module": value.__name__}
        raise Unwritable(f"module {value.__name__}")
    module, name = str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))
    light = module in LIGHT or module.split(".")[0] in sys.stdlib_module_names
    if name and light and getattr(sys.modules.get(module), name, None) is value:
        return {"module": module, "name": name}
    if module == function.__module__ and hasattr(value, "__code__"):
        return {"function": function_out(value, forbidden)}
    if type(value) is tuple:
        return {"tuple": value_out(list(value))}
    return {"value": value_out(value)}


def _global_in(written: dict[str, Any]) -> Any:
    if "function" in written:
        return function_in(written["function"])
    if "module" in written:
        module = importlib.import_module(written["module"])
        return getattr(module, written["name"]) if "name" in written else module
    return tuple(written["tuple"]) if "tuple" in written else written["value"]
