"""An algorithm's declaration: it loads quietly, its hooks exist, it is described, its options work everywhere."""

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
from zoo.errors import ZooError, nearest
from zoo.options.config import TrainConfig, resolve
from zoo.options.fields import Option, options_of
from zoo.options.strict_yaml import read_yaml, write_yaml
from zoo.testing.bench import Bench
from zoo.testing.steps import Failed, NotApplicable, with_options

PUBLIC = ("zoo.api", "zoo.testing")
"""What a plugin may import from zoo."""


# -- loading ---------------------------------------------------------------------------------------------------------


def loads_quietly(bench: Bench) -> None:
    """Importing the plugin prints nothing, raises no warning, uses no network, and changes nothing in the process."""
    module = sys.modules[bench.cls.__module__]
    spec = module.__spec__
    if spec is None or spec.loader is None or spec.origin is None:
        raise NotApplicable(f"the module {bench.cls.__module__} has no file that can be imported again")
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
            raise Failed(f"{spec.name}, line {line}, imports {target}. Only zoo.api is stable; import from there.")


def _process() -> dict[str, Any]:
    """What an import must not change."""
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
        raise Failed("Importing the plugin uses the network.")

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
    """Its methods are existing hooks, with existing arguments."""
    validate(bench.cls, bench.name)
    registry.manager(bench.cls())


# -- description -----------------------------------------------------------------------------------------------------


def described(bench: Bench) -> None:
    """The class, its paper, its options and its metrics are described, and a listing can read it without importing."""
    cls = bench.cls
    if not (cls.__doc__ or "").strip():
        raise Failed(f"{cls.__name__} has no docstring, whose first line is the description in `zoo algos`.")
    if not (inspect.getmodule(cls).__doc__ or "").strip():  # type: ignore[union-attr]
        raise Failed(f"The module {cls.__module__} has no docstring, which `zoo algos {bench.name}` shows.")
    if not cls.paper.strip():
        raise Failed('It names no paper. Write paper = "arXiv:…", a link, or another source of the idea.')
    for option in options_of(cls.Config):
        if not option.help:
            raise Failed(f"The option {option.name} has no help: add a string below its field.")
    for name, sentence in cls.metrics.items():
        if not str(sentence).strip():
            raise Failed(f"The metric {name} has no explanation.")
    _check_listing(bench)


def _check_listing(bench: Bench) -> None:
    """The listing reads the source of registered algorithms."""
    entry = next((entry for entry in registry.algorithms() if bench.name in (entry.name, entry.full_name)), None)
    if entry is None:
        return
    description = registry.describe(entry)
    if description.get("error"):
        raise Failed(f"`zoo algos` cannot read its source: {description['error']}")
    for name in ("description", "data", "paper"):
        if description[name] in ("", "computed"):
            raise Failed(f"`zoo algos` cannot read `{name}` from the source: write it as a literal in the class.")


# -- options ---------------------------------------------------------------------------------------------------------


def options(bench: Bench) -> None:
    """Options are validated, and survive a round trip through a file and the command line."""
    for option in options_of(bench.cls.Config):
        if option.default is dataclasses.MISSING:
            raise Failed(f"The option {option.name} has no default, which `zoo train --algo {bench.name}` needs.")
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
            raise Failed(f"Options change when they are written to a file and read again{with_options(variant)}.")
        _check_flags(bench, resolved.algorithm, variant)


def defaults(bench: Bench) -> None:
    """Every reason is that of an option."""
    cls = bench.cls
    known = [option.name for option in (*options_of(TrainConfig), *options_of(cls.Config))]
    for name, reason in cls.reasons.items():
        if name not in known or not str(reason).strip():
            raise Failed(f"reasons: {name} is no option.{nearest(name, known)}" if name not in known else
                         f"reasons: {name} has none.")  # fmt: skip


def _check_refusal(bench: Bench, option: Option) -> None:
    """An invalid value is a user's mistake, and the message names the option."""
    if option.type in (str, Any):
        return
    try:
        bench.resolved({option.name: "not a value @"})
    except ZooError as error:
        if option.name not in str(error):
            raise Failed(
                f"The message about an invalid value of {option.name} does not name the option: {error}"
            ) from None
    else:
        if str not in getattr(option.type, "__args__", ()):
            raise Failed(f"The option {option.name} accepts any value: give it a type.")


def _check_flags(bench: Bench, config: Any, variant: Any) -> None:
    """The values as the command line gives them: strings, except for flags."""
    values = {option.name: getattr(config, option.name) for option in options_of(bench.cls.Config)}
    texts = {name: value if isinstance(value, bool) else _as_text(value) for name, value in values.items()}
    again = resolve(bench.name, bench.cls, [("command line", texts)]).algorithm
    for name, value in values.items():
        if getattr(again, name) != value:
            raise Failed(
                f"The option {name} is {value!r}, but {getattr(again, name)!r} if it is given as a flag"
                f"{with_options(variant)}."
            )


def _as_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
