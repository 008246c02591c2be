"""Which metrics a stage produces, so that a claim can be held against them before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.algorithm import Algorithm
from zoo.errors import ZooError, nearest
from zoo.recipes.schema import MEASURED, Stage
from zoo.spelling import parse

EVERY_STEP = ("loss", "grad_norm", "lr", "num_tokens")
ROLLOUTS = (
    "rollout/reward", "rollout/reward_std", "rollout/missing", "rollout/length", "rollout/length_max", "rollout/cut",
    "rollout/flat_groups", "rollout/engine_gap",
)  # fmt: skip
FAMILIES = ("rollout/reward/", "rollout/groups/", "val/reward/")
"""Metrics that are called after what the options name."""
VALIDATED = ("val/reward", "val/gold", "val/length", "val/cut", "val/kl", "val/grade")
LABELLED = ("pairs", "ties", "entropy", "agreement", "position_inconsistent", "chosen_longer")
"""What a stage that labels counts."""


@dataclass(frozen=True)
class Produced:
    """Names of metrics. families: beginnings of names that cannot be listed."""

    names: tuple[str, ...]
    families: tuple[str, ...] = ()

    def lacks(self, metric: str) -> bool:
        return metric not in self.names and not metric.startswith(self.families or ("\0",))


def produced(stage: Stage, cls: type[Algorithm] | None, evals: Mapping[str, Any]) -> Produced:
    """What can be read of a stage once it is made. cls: its algorithm, None where it does not train."""
    if stage.label is not None:
        return Produced((*LABELLED, *MEASURED))
    names: list[str] = []
    families: list[str] = []
    for label, spelling in stage.evals.items():
        names.append(label)
        details = _details(spelling, evals)
        for detail in details or ():
            # `bin_*` stands for all that begin so.
            (families if detail.endswith("*") else names).append(f"{label}.{detail.removesuffix('*')}")
        # One that is not there, which is told elsewhere, may have any.
        families += [f"{label}."] if details is None else []
    if cls is not None:
        own = ("loss", *cls.metrics)
        names += [*EVERY_STEP, *own, *(f"val/{name}" for name in own), *MEASURED]
        names += [*ROLLOUTS, *VALIDATED] if cls.online() else []
        families += FAMILIES if cls.online() else ()
    return Produced(tuple(dict.fromkeys(names)), tuple(families))


def _details(spelling: str, evals: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The details that an evaluation declares; None where that cannot be known."""
    try:
        return tuple(evals[parse(spelling)[0]].details)
    except (KeyError, ZooError):
        return None


def named_nearest(metric: str, metrics: Produced) -> str:
    """The nearest metric, or all there are."""
    return nearest(metric, metrics.names) or f" It has: {', '.join(metrics.names) or 'none'}."
