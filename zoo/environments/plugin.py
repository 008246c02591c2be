"""The bundled environments and their data, registered like those of any plugin."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl
from zoo.data.sources.named import DataSource


@hookimpl
def environments() -> dict[str, Any]:
    from zoo.environments.calculator import Calculator

    return {"calculator": Calculator}


@hookimpl
def sources() -> dict[str, Any]:
    from zoo.environments import calculator

    return {"calculator": DataSource(calculator.questions, lambda part, algorithm: calculator.defaults(algorithm))}
