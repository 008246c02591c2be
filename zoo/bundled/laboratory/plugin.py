"""The worlds of the laboratory as a plugin: a source and a model with parts, and named rewards and evaluations."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.contract.hookspecs import hookimpl
from zoo.data.sources.named import DataSource

if TYPE_CHECKING:
    from zoo.bundled.laboratory.worlds import Worlds


@cache
def worlds() -> Worlds:
    """All worlds."""
    from zoo.bundled.laboratory import arithmetic, bandit, chains, facts_world, gold_world, quiz, rooms, skills
    from zoo.bundled.laboratory.worlds import Worlds

    return Worlds(
        {
            "gold": gold_world.WORLD,
            "bandit": bandit.WORLD,
            "facts": facts_world.WORLD,
            "safety": facts_world.SAFETY,
            "opinions": facts_world.OPINIONS,
            "arithmetic": arithmetic.WORLD,
            "chains": chains.WORLD,
            "quiz": quiz.WORLD,
            "skills": skills.WORLD,
            "rooms": rooms.WORLD,
        }
    )


@hookimpl
def sources() -> dict[str, Any]:
    return {
        "world": DataSource(
            lambda split, kind, part="": worlds().rows(split, kind, part),
            lambda part, algorithm: worlds().defaults(part, algorithm),
        )
    }


class Bases:
    """The base models of the worlds."""

    def __call__(self, part: str, say: Any) -> Any:
        return worlds().base(part, say)

    def check(self, part: str) -> None:
        worlds().asked(part)


@hookimpl
def models() -> dict[str, Any]:
    return {"world": Bases()}


@hookimpl
def environments() -> dict[str, Any]:
    from zoo.bundled.laboratory.rooms import Rooms

    return {"rooms": Rooms}


@hookimpl
def rewards() -> dict[str, Any]:
    from zoo.bundled.laboratory import gold

    return {"gold": gold.gold, "proxy": gold.proxy}


@hookimpl
def evals() -> dict[str, Any]:
    from zoo.bundled.laboratory import bandit, chain_choice, facts_world, gold_world

    return {**gold_world.evals(), **bandit.evals(), **facts_world.evals(), **chain_choice.evals()}
