"""The bundled environments and their data, registered like those of any plugin."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl
from zoo.data.sources.named import DataSource


@hookimpl
def environments() -> dict[str, Any]:
    from zoo.environments.calculator import Calculator
    from zoo.environments.gymnasium import Gymnasium
    from zoo.environments.openenv import OpenEnv
    from zoo.environments.verifiers import Verifiers

    return {"calculator": Calculator, "gymnasium": Gymnasium, "openenv": OpenEnv, "verifiers": Verifiers}


@hookimpl
def sources() -> dict[str, Any]:
    from zoo.environments import adaptors, calculator, verifiers

    return {
        "calculator": DataSource(calculator.questions, lambda part, algorithm: calculator.defaults(algorithm)),
        "episodes": DataSource(adaptors.episodes),
        "verifiers": DataSource(verifiers.tasks),
    }
