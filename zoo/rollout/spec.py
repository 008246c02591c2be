"""The text of `--engine`: `local`, or a name with options in brackets, `vllm(url=http://127.0.0.1:8000)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from zoo.errors import PluginError, ZooError, nearest
from zoo.rollout.engine import Engine, EngineSetup

SPEC = re.compile(r"\s*([\w.-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


def make_engine(
    spec: str,
    *,
    model: Any,
    eos_ids: Iterable[int],
    pad_id: int,
    named: Mapping[str, Callable[..., Engine]],
    tokenizer: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Engine:
    """The engine that `spec` names. named: the factories that plugins contribute (hook `engines`).

    Raises ZooError when the text cannot be read, the name or an option is unknown, or the engine finds a mistake.
    """
    name, given = read_spec(spec)
    if name not in named:
        raise ZooError(
            f"No engine is called '{name}'.{nearest(name, named)}", f"Installed: {', '.join(sorted(named))}."
        )
    options = _checked(name, given, named[name])
    engine = named[name](EngineSetup(model, frozenset(int(i) for i in eos_ids), pad_id, tokenizer, progress), **options)
    for what in ("generate", "remote", *(["update"] if getattr(engine, "remote", False) else [])):
        if not hasattr(engine, what):
            raise PluginError(
                f"The engine '{name}' ({type(engine).__name__}) has no '{what}'.",
                "docs/contract.md says what an engine is.",
            )
    return engine


def read_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options of a text such as `vllm(url=http://127.0.0.1:8000, timeout=60)`."""
    match = SPEC.fullmatch(spec)
    parts = [part.partition("=") for part in (match[2] or "").split(",") if part.strip()] if match else []
    options = {key.strip(): value.strip() for key, _, value in parts}
    if match is None or not all(options) or not all(options.values()) or len(options) != len(parts):
        raise ZooError(
            f"The engine '{spec}' cannot be read.",
            "Write a name, or a name with options: vllm(url=http://127.0.0.1:8000).",
        )
    return match[1], options


def _checked(name: str, given: Mapping[str, str], factory: Callable[..., Engine]) -> dict[str, Any]:
    """The options in the types that the factory declares for its parameters after the first."""
    declared = list(inspect.signature(factory).parameters)[1:]
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    values = {}
    for key, text in given.items():
        if key not in declared:
            raise ZooError(
                f"The engine '{name}' has no option '{key}'.{nearest(key, declared)}",
                f"It takes: {', '.join(declared) or 'none'}.",
            )
        try:
            values[key] = TypeAdapter(hints.get(key, str)).validate_python(text)
        except ValidationError as error:
            raise ZooError(f"Engine '{name}', option {key} = {text}: {error.errors()[0]['msg']}.") from None
    return values
