"""The engine that a run asks for: `--engine local`, or with options in brackets, `vllm(url=http://127.0.0.1:8000)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zoo.errors import PluginError, ZooError, nearest
from zoo.options.spelling import bind, parse
from zoo.rollout.engine import Engine, EngineSetup


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

    Raises ZooError if the text cannot be read, the name or an option is unknown, or the engine refuses an option.
    """
    name, arguments = parse(spec, "engine", "vllm(url=http://127.0.0.1:8000)")
    if name not in named:
        raise ZooError(
            f"No engine is called '{name}'.{nearest(name, named)}", f"Installed: {', '.join(sorted(named))}."
        )
    options = bind(named[name], arguments, f"engine '{name}'")
    engine = named[name](EngineSetup(model, frozenset(int(i) for i in eos_ids), pad_id, tokenizer, progress), **options)
    for what in ("generate", "remote", *(["update"] if getattr(engine, "remote", False) else [])):
        if not hasattr(engine, what):
            raise PluginError(
                f"The engine '{name}' ({type(engine).__name__}) has no '{what}'.",
                "docs/contract.md says what an engine is.",
            )
    return engine
