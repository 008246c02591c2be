"""The bundled rewards, and the data source that one of them needs, registered like those of any plugin."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl
from zoo.contract.lent import is_lent, lent_functions


def bundled() -> dict[str, Any]:
    """Every bundled reward by its name, and those that a Python program gives."""
    from zoo.rewards import checkers, code, episodes, ifeval, instructions, maths, penalties, reasoning, served

    return {
        "instructions": instructions.reward,
        "ifeval": ifeval.ifeval,
        "exact": checkers.exact,
        "numeric": checkers.numeric,
        "maths": maths.maths,
        "regex": checkers.regex,
        "format": checkers.form,
        "length": penalties.length,
        "overlong": penalties.overlong,
        "repetition": penalties.repetition,
        "code": code.code,
        "reasoning_gym": reasoning.reasoning_gym,
        "http": served.http,
        "environment": episodes.environment,
        **lent_functions(),
    }


@hookimpl
def rewards() -> dict[str, Any]:
    # The starter set's plugin registers its own reward.
    return {name: function for name, function in bundled().items() if name != "instructions" and not is_lent(name)}


@hookimpl
def sources() -> dict[str, Any]:
    from zoo.rewards import reasoning

    return {"reasoning-gym": reasoning.questions}
