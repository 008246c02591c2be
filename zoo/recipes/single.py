"""One stage of a recipe by itself: its options for `zoo train --recipe NAME --stage STAGE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.recipes.graph import Job, jobs
from zoo.recipes.load import load_recipe
from zoo.recipes.schema import Recipe, Stage, Variant, canonical, references
from zoo.recipes.structure import unknown_stage
from zoo.runs import Run

FOLDER = Path("runs/recipes")


def find_stage(name: str, stage: str | None, size: str) -> tuple[Recipe, Variant, Stage]:
    """The stage that --recipe, --stage and the flag of a size name. Raises ZooError unless it exists and trains."""
    recipe = load_recipe(name)
    variant = recipe.variant(size)
    trained = [candidate.name for candidate in variant.stages.values() if candidate.algo]
    hint = f"Stages that train: {', '.join(trained) or 'none'}."
    if stage is None:
        raise ZooError(f"Which stage of the recipe {recipe.name}? Add --stage.", hint)
    if problem := unknown_stage(variant, stage):
        raise ZooError(f"{recipe.name}: {problem}", hint)
    chosen = variant.stages.get(canonical(stage))
    if chosen is None:
        raise ZooError(f"'{stage}' names several stages.", f"Name one of them: {', '.join(variant.matching(stage))}.")
    if chosen.algo is None:
        what = "labels data" if chosen.label is not None else "is only evaluated"
        command = f"zoo reproduce {name} --{size} --only {chosen.name}"
        raise ZooError(f"The stage {chosen.name} of {recipe.name} trains nothing: it {what}.", f"{hint} Or: {command}")
    return recipe, variant, chosen


def stage_options(
    name: str, stage: str, size: str, given: Mapping[str, Any], folder: Path = FOLDER
) -> tuple[str, dict[str, Any]]:
    """The algorithm and the options of a stage; references become runs and rows that `zoo reproduce` has finished.

    given: options from the command line, which replace the stage's own, so that their references need no run. Raises
    ZooError for a reference to a stage that is not finished.
    """
    recipe, variant, chosen = find_stage(name, stage, size)
    by_hand = {key for key, value in given.items() if value is not None}
    kept = {key: value for key, value in chosen.options.items() if key not in by_hand}
    chosen = chosen.model_copy(
        update={"options": kept, "evals": {}, "start": None if "model" in by_hand else chosen.start}
    )
    seed = _seed(given.get("seed"), chosen)
    made: dict[str, str] = {}
    top = folder / f"{recipe.name}-{size}"
    stages = {job.name: job for job in jobs(list(variant.stages.values()), [seed], top)}
    for key, value in chosen.training_options.items():
        for needed in references(value):
            job = stages[needed]
            if not _is_finished(job, stages):
                asked = " --yes" if size == "full" else ""
                command = f"zoo reproduce {name} --{size}{asked} --only '{needed}' --seeds {seed},"
                raise ZooError(
                    f"The stage {chosen.name} of {recipe.name} needs its stage {needed}, which is not finished in "
                    f"{job.folder}.",
                    f"Make it: {command}\nOr give --{key.replace('_', '-')} yourself.",
                )
            made[needed] = _made(job, stages)
    return str(chosen.algo), chosen.at(seed, made).training_options


def _seed(given: Any, stage: Stage) -> int:
    """The seed of the run: --seed, else the stage's, else 0."""
    for value in (given, stage.options.get("seed")):
        if value is not None and str(value).isdigit():
            return int(value)
    return 0


def _is_finished(job: Job, stages: Mapping[str, Job]) -> bool:
    if job.stage.label is not None:
        return Path(job.made).is_file() and bool(Run(job.folder).read_json(f"{Path(job.made).stem}.json"))
    if job.stage.algo is None:
        return all(_is_finished(stages[name], stages) for name in references(job.stage.start))
    return Run(job.folder).status == "finished"


def _made(job: Job, stages: Mapping[str, Job]) -> str:
    """The value of a reference; for a stage that only evaluates, it is the stage's start, resolved in turn."""
    if job.stage.algo is None and job.stage.label is None:
        needs = {name: _made(stages[name], stages) for name in references(job.stage.start)}
        return str(job.stage.model_copy(update={"options": {}, "evals": {}}).at(job.seed, needs).start)
    return job.made
