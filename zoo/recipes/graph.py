"""The stages of a variant in the order in which they can run, and the folder of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ZooError
from zoo.recipes.schema import Stage, Variant
from zoo.recipes.structure import unknown_stage

LABELS = "labelled.jsonl"
"""The file of rows that a labelling stage writes, in its folder."""


@dataclass(frozen=True)
class Job:
    """One stage of one seed. `stage`: filled in for the seed, with references by name."""

    stage: Stage
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def kind(self) -> str:
        """The algorithm, `label`, or `evaluate`."""
        return kind_of(self.stage)

    @property
    def made(self) -> str:
        """The value of `stage:NAME`: the run's folder, the labelled rows, or the evaluated model."""
        if self.stage.label is not None:
            return str(self.folder / LABELS)
        return str(self.folder) if self.stage.algo else str(self.stage.start)


def kind_of(stage: Stage) -> str:
    return stage.algo or ("evaluate" if stage.label is None else "label")


def stage_order(variant: Variant, only: str | None = None) -> list[Stage]:
    """The stages in the file's order, except that each comes after the stages that it needs.

    only: a stage (`name`, `name(value)` or `name(*)`); then all stages but it and those that it needs are left out;
    `*` is all of them.
    Raises ZooError for an unknown name, and for stages that need each other.
    """
    wanted = list(variant.stages) if only in (None, "*") else variant.matching(str(only))
    if only is not None and not wanted:
        raise ZooError(unknown_stage(variant, only), "Give one of them to --only.")
    done: dict[str, Stage] = {}
    for name in wanted:
        _visit(name, variant, done, ())
    return list(done.values())


def _visit(name: str, variant: Variant, done: dict[str, Stage], path: tuple[str, ...]) -> None:
    if name in done:
        return
    if name in path:
        raise ZooError(f"Stages need each other: {' → '.join([*path[path.index(name) :], name])}.")
    for other in variant.stages[name].needs:
        _visit(other, variant, done, (*path, name))
    done[name] = variant.stages[name]


def jobs(stages: Sequence[Stage], seeds: Sequence[int], folder: Path) -> list[Job]:
    """Every stage of every seed. A seed is finished before the next begins, so that a stopped run is balanced."""
    return [Job(stage.at(seed), seed, folder / f"seed-{seed}" / stage.folder) for seed in seeds for stage in stages]


def drawn(stages: Sequence[Stage]) -> list[str]:
    """The graph as lines of text: `name: algorithm ← needed stages`, with the stages of a sweep in one line."""
    lines: dict[str, str] = {}
    for stage in stages:
        name = f"{stage.sweep_of}(*)" if stage.sweep_of else stage.name
        needs = ", ".join(stage.needs) or str(stage.start or (stage.label or {}).get("data") or "")
        count = sum(other.sweep_of == stage.sweep_of for other in stages) if stage.sweep_of else 1
        times = f" × {count}" if count > 1 else ""
        lines.setdefault(name, f"{name}: {kind_of(stage)}{times}" + (f" ← {needs}" if needs else ""))
    return list(lines.values())
