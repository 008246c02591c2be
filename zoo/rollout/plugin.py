"""The bundled engines, registered like those of any plugin."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl


@hookimpl
def engines() -> dict[str, Any]:
    from zoo.rollout.engine import local
    from zoo.rollout.vllm import VLLMEngine

    return {"local": local, "vllm": VLLMEngine}
