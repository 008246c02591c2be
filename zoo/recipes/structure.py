"""Checks which stage needs which, and whether claims name existing stages; no plugin is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo.errors import nearest
from zoo.recipes.form import METRIC, Claim
from zoo.recipes.keys import DATA
from zoo.recipes.schema import Recipe, Stage, Variant, canonical, references


def check_structure(recipe: Recipe) -> list[str]:
    """The mistakes, each with file and line."""
    return [
        problem
        for variant in reversed(recipe.variants)
        for problem in (*_stages(recipe, variant), *_claims(recipe, variant))
    ]  # fmt: skip


def where_needed(stage: Stage) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every other stage that a stage refers to, with the path of keys (below the stage) of the reference."""
    held: dict[tuple[str, ...], Any] = {
        ("start",): stage.start,
        **{(key,): value for key, value in stage.options.items()},
        **{("label", key): value for key, value in (stage.label or {}).items()},
        **{("evals", key): value for key, value in stage.evals.items()},
    }
    for keys, value in held.items():
        for needed in references(value):
            yield needed, keys


def written_at(recipe: Recipe, variant: Variant, stage: Stage, *keys: str) -> str:
    """`file:line` of a key of a stage, which may be in its sweep, in the common options, or in the shared evals."""
    name = stage.sweep_of or stage.name
    own = ("stages", name, *keys)
    among = [own, ("stages", name, "sweep", *keys[-1:]), ("common", *keys), keys]
    keys_written = next((path for path in among if recipe.has(variant, *path)), own)
    return recipe.where(variant, *keys_written)


def unknown_stage(variant: Variant, name: str) -> str:
    """Why a name is not a stage: `There is no stage 'tunde'. Did you mean 'tuned'?`; empty for a stage."""
    if variant.matching(name):
        return ""
    first, bracket, _ = name.partition("(")
    if swept := variant.matching(f"{first}(*)"):
        return f"'{first}' is swept; its stages are {', '.join(swept)}, not '{name}'."
    if bracket and first in variant.stages:
        meant = nearest("sweep", variant.stages[first].options).replace("Did you mean", "Its sweep may be")
        return f"'{first}' is one stage and not swept, so there is no '{name}'.{meant}"
    return f"There is no stage '{name}'.{nearest(name, variant.stages)} The stages are: {', '.join(variant.stages)}."


def _stages(recipe: Recipe, variant: Variant) -> Iterator[str]:
    order = list(variant.stages)
    for stage in variant.stages.values():
        for needed, keys in where_needed(stage):
            where = written_at(recipe, variant, stage, *keys)
            if problem := unknown_stage(variant, needed):
                yield f"{where}: {problem}"
            elif needed.endswith("(*)"):
                yield f"{where}: a stage needs one other stage: {' or '.join(variant.matching(needed))}."
            elif stage.name in _all_needs(variant, needed):
                yield f"{where}: '{stage.name}' and '{needed}' need each other, so neither can be made first."
            elif order.index(needed) >= order.index(stage.name):
                yield f"{where}: '{stage.name}' needs '{needed}', which is below it: move it up."
            elif problem := _wrong_sort(variant.stages[needed], keys):
                yield f"{where}: {problem}"


def _all_needs(variant: Variant, name: str) -> set[str]:
    """The stage itself and all stages that it needs, directly or indirectly."""
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        stage_name = waiting.pop()
        if stage_name not in needed and stage_name in variant.stages:
            needed.add(stage_name)
            waiting += variant.stages[stage_name].needs
    return needed


def _wrong_sort(needed: Stage, keys: tuple[str, ...]) -> str:
    """The message for data in place of a model, or a model in place of data."""
    wants_data = bool(keys) and keys[-1] in DATA
    if wants_data and needed.label is None:
        return f"the stage '{needed.name}' makes no data: only a stage with `label` does."
    if keys and not wants_data and keys[0] != "evals" and needed.label is not None:
        return f"the stage '{needed.name}' makes data, but '{keys[-1]}' needs a model."
    if needed.label is None and needed.algo is None and needed.start is None:
        return f"the stage '{needed.name}' has no model."
    return ""


def _claims(recipe: Recipe, variant: Variant) -> Iterator[str]:
    for i, claim in enumerate(variant.claims):
        for keys, metric in metrics_of(claim):
            named = METRIC.fullmatch(metric)
            if named and (problem := unknown_stage(variant, canonical(named[1]))):
                yield f"{recipe.where(variant, 'claims', i, *keys)}: {problem}"
        if variant.name != "full" and claim.rule == "paper" and not claim.exact:
            yield (
                f"{recipe.where(variant, 'claims', i, 'paper')}: a smaller experiment cannot claim the paper's number. "
                "State what shows the mechanism (above, by, …), or write `exact: true` if the number holds at any "
                "scale."
            )


def metrics_of(claim: Claim) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The metrics that a claim names, each with its path of keys below the claim."""
    if claim.metric:
        yield ("metric",), claim.metric
    if claim.baseline:
        yield ("baseline",), claim.baseline
    for i, metric in enumerate(claim.orders or ()):
        yield ("orders", i), metric
    if claim.at:
        yield ("at", "metric"), claim.at.metric
