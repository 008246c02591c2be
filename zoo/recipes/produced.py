"""The metrics that a stage produces, so that claims can be checked against them before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.contract.algorithm import Algorithm
from zoo.errors import ZooError, nearest
from zoo.options.spelling import parse
from zoo.recipes.schema import MEASURED, Stage

EVERY_STEP = ("loss", "grad_norm", "lr", "num_tokens")
ROLLOUTS = (
    "rollout/reward", "rollout/reward_std", "rollout/missing", "rollout/length", "rollout/length_max", "rollout/cut",
    "rollout/length_ended", "rollout/flat_groups", "rollout/engine_gap",
)  # fmt: skip
NAMED = ("rollout/reward/*", "rollout/groups/*", "val/reward/*")
"""Metrics that are named after values of options."""
VALIDATED = ("val/reward", "val/gold", "val/length", "val/cut", "val/kl", "val/grade")
LABELLED = {
    "preference": ("pairs", "ties", "entropy", "agreement", "position_inconsistent", "chosen_longer"),
    "demonstration": ("rows", "tokens", "rest"),
}
"""The metrics of a labelling stage, by the kind of data that it makes."""


@dataclass(frozen=True)
class Produced:
    """Names of metrics, and patterns for those that cannot be listed: `rollout/groups/*`."""

    names: tuple[str, ...]
    patterns: tuple[str, ...] = ()

    def lacks(self, metric: str) -> bool:
        return metric not in self.names and not any(fnmatchcase(metric, pattern) for pattern in self.patterns)


def produced(stage: Stage, cls: type[Algorithm] | None, evals: Mapping[str, Any]) -> Produced:
    """The metrics of a finished stage. cls: its algorithm, None if it does not train."""
    if stage.makes is not None:
        return Produced((*LABELLED[stage.makes], *MEASURED))
    names: list[str] = []
    for label, spelling in stage.evals.items():
        names += [label, *(f"{label}.{detail}" for detail in _details(spelling, evals))]
    if cls is not None:
        own = ("loss", *cls.metrics)
        names += [*EVERY_STEP, *own, *(f"val/{name}" for name in own), *MEASURED]
        names += [*ROLLOUTS, *VALIDATED, *NAMED] if cls.online() else []
    patterns = [name for name in names if "*" in name]
    return Produced(tuple(dict.fromkeys(name for name in names if name not in patterns)), tuple(patterns))


def _details(spelling: str, evals: Mapping[str, Any]) -> tuple[str, ...]:
    """The details that an evaluation declares; all details for an unknown evaluation, which is reported elsewhere."""
    try:
        return tuple(evals[parse(spelling)[0]].details)
    except (KeyError, ZooError):
        return ("*",)


def named_nearest(metric: str, metrics: Produced) -> str:
    """The nearest metric, or all metrics."""
    return nearest(metric, metrics.names) or f" It has: {', '.join(metrics.names) or 'none'}."
