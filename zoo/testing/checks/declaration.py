"""What an algorithm says of itself: it loads quietly, its hooks fit, it is described, its options work everywhere."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from zoo.contract import registry
from zoo.contract.algorithm import validate
from zoo.errors import ZooError
from zoo.options.config import resolve
from zoo.options.fields import Option, options_of
from zoo.options.strict_yaml import read_yaml, write_yaml
from zoo.testing.bench import Bench
from zoo.testing.steps import Failed, NotApplicable, with_options

PUBLIC = ("zoo.api", "zoo.testing")
"""What a plugin may import of zoo."""


# -- loading ---------------------------------------------------------------------------------------------------------


def loads_quietly(bench: Bench) -> None:
    """Importing the plugin prints nothing, warns of nothing, asks no network, and leaves the process as it was."""
    module = sys.modules[bench.cls.__module__]
    spec = module.__spec__
    if spec is None or spec.loader is None or spec.origin is None:
        raise NotApplicable(f"the module {bench.cls.__module__} has no file that could be imported again")
    before = _process()
    output = io.StringIO()
    fresh = importlib.util.module_from_spec(spec)
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        _no_network(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        spec.loader.exec_module(fresh)
    if text := output.getvalue().strip():
        raise Failed(f"Importing {spec.name} prints {text.splitlines()[0]!r}.")
    if caught:
        raise Failed(f"Importing {spec.name} warns: {caught[0].message}")
    for (name, old), new in zip(before.items(), _process().values(), strict=True):
        if old != new:
            raise Failed(f"Importing {spec.name} changes {name}.")
    for line, target in _imports(Path(spec.origin)):
        if target.split(".")[0] == "zoo" and not target.startswith(PUBLIC):
            raise Failed(f"{spec.name}, line {line}, imports {target}. Only zoo.api stays as it is; import from there.")


def _process() -> dict[str, Any]:
    """What an import has no business to change."""
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "torch's default type": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "the environment": dict(os.environ),
        "whether gradients are computed": torch.is_grad_enabled(),
    }


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise Failed("Importing the plugin asks the network.")

    with mock.patch.object(socket.socket, "connect", refuse), mock.patch.object(socket, "getaddrinfo", refuse):
        yield


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import statement in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def hook_arguments(bench: Bench) -> None:
    """Its methods are hooks that exist, with arguments that exist."""
    validate(bench.cls, bench.name)
    registry.manager(bench.cls())


# -- description -----------------------------------------------------------------------------------------------------


def described(bench: Bench) -> None:
    """The class, its paper, its options and its metrics are described, and a listing can read it without importing."""
    cls = bench.cls
    if not (cls.__doc__ or "").strip():
        raise Failed(f"{cls.__name__} has no docstring: its first line is the description in `zoo algos`.")
    if not (inspect.getmodule(cls).__doc__ or "").strip():  # type: ignore[union-attr]
        raise Failed(f"The module {cls.__module__} has no docstring: it is the card in `zoo algos {bench.name}`.")
    if not cls.paper.strip():
        raise Failed('It names no paper. Write paper = "arXiv:…", a link, or where the idea is described.')
    for option in options_of(cls.Config):
        if not option.help:
            raise Failed(f"The option {option.name} has no help: put a string under its field.")
    for name, sentence in cls.metrics.items():
        if not str(sentence).strip():
            raise Failed(f"The metric {name} has no explanation.")
    _check_listing(bench)


def _check_listing(bench: Bench) -> None:
    """A listing reads the source of registered algorithms."""
    entry = next((entry for entry in registry.algorithms() if bench.name in (entry.name, entry.full_name)), None)
    if entry is None:
        return
    found = registry.describe(entry)
    if found.get("error"):
        raise Failed(f"`zoo algos` cannot read its source: {found['error']}")
    for name in ("description", "data", "paper"):
        if found[name] in ("", "computed"):
            raise Failed(f"`zoo algos` cannot read `{name}` from the source: write a literal in the class itself.")


# -- options ---------------------------------------------------------------------------------------------------------


def options(bench: Bench) -> None:
    """Options are checked, and come back equal from a file and from the command line."""
    for option in options_of(bench.cls.Config):
        if option.default is dataclasses.MISSING:
            raise Failed(f"The option {option.name} has no default: `zoo train --algo {bench.name}` must run as it is.")
        _check_refusal(bench, option)
    for variant in bench.variants:
        resolved = bench.resolved(variant)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "run.yaml"
            write_yaml(file, resolved.as_dict())
            content = read_yaml(file)
            content.pop("algo")
        again = resolve(bench.name, bench.cls, [("run.yaml", content)])
        if again.as_dict() != resolved.as_dict():
            raise Failed(f"Options are not the same after they were written to a file and read{with_options(variant)}.")
        _check_flags(bench, resolved.algorithm, variant)


def _check_refusal(bench: Bench, option: Option) -> None:
    """A value that means nothing for the type is a mistake of the user's, told with the option's name."""
    if option.type in (str, Any):
        return
    try:
        bench.resolved({option.name: "not a value @"})
    except ZooError as error:
        if option.name not in str(error):
            raise Failed(f"A wrong value of {option.name} is refused without naming it: {error}") from None
    else:
        if str not in getattr(option.type, "__args__", ()):
            raise Failed(f"The option {option.name} takes any value: give it a type.")


def _check_flags(bench: Bench, config: Any, variant: Any) -> None:
    """The values as the command line hands them over: text, but for flags."""
    values = {option.name: getattr(config, option.name) for option in options_of(bench.cls.Config)}
    texts = {name: value if isinstance(value, bool) else _as_text(value) for name, value in values.items()}
    again = resolve(bench.name, bench.cls, [("command line", texts)]).algorithm
    for name, value in values.items():
        if getattr(again, name) != value:
            raise Failed(
                f"The option {name} is {value!r}, and {getattr(again, name)!r} when it is given as a flag"
                f"{with_options(variant)}."
            )


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
