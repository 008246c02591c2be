"""From the text of `--environment` to a pool of episodes: `calculator(digits=3)`, `./shop.py:Shop(factor=2)`.

An environment in a file is imported in the processes of its episodes alone.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from zoo.cards.contributed import contributed
from zoo.contract.own_process import Failure, Target, target_of
from zoo.contract.plugin_files import is_file_name
from zoo.contract.source_text import Problem, place_of, problem_of, source_tree
from zoo.environments import Environment
from zoo.environments.pool import Pool
from zoo.errors import PluginError, ZooError, nearest
from zoo.options.spelling import bound, name_in, parse

Maker = type[Environment] | Callable[..., Environment]
EXAMPLE = "./shop.py:Shop(factor=2)"


def available() -> dict[str, Any]:
    """All environments that plugins contribute. Those that come from a card cannot be made."""

    def make(facts: Mapping[str, Any], function: Any) -> Any:
        function.data = facts["data"]
        return function

    return contributed("environments", lambda one: one, lambda one: {"data": getattr(one, "data", "")}, make)


def data_of(spec: str) -> str:
    """The source of prompts that an environment brings, "" if it brings none or is in a file, which is not imported."""
    data = str(getattr(available().get(name_in(spec)), "data", ""))
    return data.format_map(defaultdict(str, parse(spec, "environment", EXAMPLE)[1])) if "{" in data else data


def make_pool(spec: str, named: Mapping[str, Maker], timeout: float) -> Pool:
    """The pool of the environment that a text names. named: what plugins contribute (hook `environments`).

    Raises ZooError if the text cannot be read, the name or an option is unknown, or the environment cannot be made.
    timeout: seconds for each of its answers.
    """
    check_environment(spec, named)
    name, given = parse(spec, "environment", EXAMPLE)
    options: Mapping[str, Any] = given
    if name in named:
        options = bound("environment", name, named[name], given, fixed=0)
        hint = "It holds something that cannot be copied (an open file, a lock, a model). Create that in its __init__."
        target = target_of(named[name], f"environment '{name}'", hint)
    else:
        written, _, attribute = name.rpartition(":")
        target = Target(place_of(written), attribute)
    try:
        return Pool(name, target, options, timeout)
    except Failure as failure:
        raise _not_made(name, target, failure) from None


def check_environment(spec: str, named: Mapping[str, Maker]) -> None:
    """Raises ZooError if a text names what clearly is not there, or has no such option. Nothing is imported."""
    name, given = parse(spec, "environment", EXAMPLE)
    if name in named:
        bound("environment", name, named[name], given, fixed=0)
        return
    if problem := problem_of(_in_file(name, named), "class"):
        raise _told(problem)
    takes = _options_in_source(name)
    for option in given:
        if takes is not None and option not in takes:
            offered = f"It takes: {', '.join(takes) or 'none'}."
            raise ZooError(f"The environment '{name}' has no option '{option}'.{nearest(option, takes)}", offered)


def _in_file(name: str, named: Mapping[str, Maker]) -> str:
    """`module:class` or `./file.py:class` as it was written. Raises ZooError for any other name."""
    written, _, attribute = name.rpartition(":")
    if written and attribute:
        return name
    if is_file_name(name):
        classes = _classes_in(name.rstrip(":"))
        example = f"{name.rstrip(':')}:{classes[0] if len(classes) == 1 else 'CLASS'}"
        raise ZooError(f"'{name}' does not say which class is the environment.", f"Write {example}.")
    raise ZooError(
        f"No environment is called '{name}'.{nearest(name, named)}",
        f"Installed: {', '.join(sorted(named)) or 'none'}. `zoo environments` describes each; ./file.py:CLASS is one "
        "in a file.",
    )


def _classes_in(file: str) -> list[str]:
    """The classes of a file. Raises ZooError if it cannot be read."""
    tree = source_tree(file, "class")
    if isinstance(tree, Problem):
        raise _told(tree)
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)] if tree else []


def _options_in_source(name: str) -> list[str] | None:
    """The options of a class or function, by its source text; None if that does not tell."""
    written, _, attribute = name.rpartition(":")
    tree = source_tree(written, "class")
    if not isinstance(tree, ast.Module):
        return None
    found: ast.stmt | None = _last(tree.body, attribute)
    own = isinstance(found, ast.FunctionDef)
    if isinstance(found, ast.ClassDef) and not found.decorator_list:
        found = _last(found.body, "__init__")
    if not isinstance(found, ast.FunctionDef) or found.args.kwarg or found.decorator_list:
        return None
    arguments = [argument.arg for argument in (*found.args.posonlyargs, *found.args.args)]
    return [*arguments[not own :], *(argument.arg for argument in found.args.kwonlyargs)]


def _last(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """What a name stands for at the end of a body, if it is defined there once."""
    found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    return found[0] if len(found) == 1 else None


def _told(problem: Problem) -> ZooError:
    return ZooError(f"{problem.message}.{problem.guess}", problem.hint)


def _not_made(name: str, target: Target, failure: Failure) -> ZooError:
    written = name.rpartition(":")[0] or name
    if failure.kind == "attribute":
        guess = nearest(target.attribute, failure.names)
        has = f"It has: {', '.join(failure.names)}." if failure.names else ""
        return ZooError(f"{written} has no class '{target.attribute}'.{guess}", has)
    if failure.kind == "options":
        return ZooError(*failure.reason.split("\n", 1))
    if failure.kind == "import":
        return ZooError(f"'{written}' cannot be imported: {failure.reason}.", "Give module:class or ./file.py:class.")
    hint = "It is a class whose base is zoo.api.Environment. `zoo check` tries it alone, with --environment."
    return PluginError(f"The environment '{name}' cannot be made: {failure.reason}.", hint)
