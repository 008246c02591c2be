"""Loads a recipe from its file: checks keys, expands sweeps into stages, and resolves references.

    recipe = load_recipe("mine")
    recipe.laptop.stages["tuned(beta=0.1)"].training_options

No plugin is imported; `zoo.recipes.check` checks algorithms, options, data and evaluations.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.limits import STAGES
from zoo.options.config import OTHER_NAMES, TrainConfig
from zoo.options.fields import options_of
from zoo.recipes.find import SIZES, Lines, RecipeEntry, all_recipes, experiment_digest, find_recipe, place, read
from zoo.recipes.form import STAGE_NAME, Conditions, Head, ScaleForm, StageForm, VariantForm, parse
from zoo.recipes.schema import Recipe, Stage, Variant, canonical, references, rewritten, spelled
from zoo.recipes.structure import check_structure

__all__ = ["Recipe", "RecipeEntry", "all_recipes", "load_recipe"]

NOT_IN_RECIPES = {
    "model": "write `start` instead",
    "name": "runs are named after their stages",
    "out": "give it to the command that runs the recipe",
    "trust_remote_code": "it can only be given on the command line",
}
"""Options of `zoo train` that a recipe cannot set, and what to do instead."""


def load_recipe(name: str | Path) -> Recipe:
    """The recipe `name` or `name@package`, or of a file. Raises ZooError that names each mistake with file and line."""
    path, package = find_recipe(str(name))
    content, lines = read(path)
    form = parse(content, lines, path)
    problems: list[str] = []
    full = _Expansion(form, (), lines, path, problems).variant("full", experiment_digest(content))
    smaller: dict[str, Any] = {
        size: _Expansion(part, (size,), lines, path, problems).variant(size, experiment_digest(content[size]))
        for size in SIZES if size != "full" and (part := getattr(form, size)) is not None
    }  # fmt: skip
    _raise(problems)
    head = {key: getattr(form, key) for key in Head.model_fields}
    recipe = Recipe(name=path.stem, path=path, package=package, **head, full=full, lines=lines, **smaller)
    _raise(check_structure(recipe))
    return recipe


def _raise(problems: list[str]) -> None:
    """Raise ZooError with every mistake once, each on its line; lines with what to type next may follow it."""
    if problems:
        raise ZooError("\n".join(dict.fromkeys(problems)), "docs/recipes.md describes the form of a recipe.")


class _Expansion:
    """Expands one variant of a file into stages with all their options."""

    def __init__(self, form: VariantForm, top: tuple[str, ...], lines: Lines, path: Path, problems: list[str]):
        self.form, self.top, self.lines, self.path, self.problems = form, top, lines, path, problems

    def variant(self, name: str, digest: str) -> Variant:
        self._check_common()
        stages = [stage for written, form in self.form.stages.items() for stage in self._stages(written, form)]
        self._check_folders(stages)
        conditions = None
        if isinstance(self.form, ScaleForm):
            conditions = Conditions(**{key: getattr(self.form, key) for key in Conditions.model_fields})
        by_name = {stage.name: stage for stage in stages}
        return Variant(name=name, stages=by_name, claims=self.form.claims, conditions=conditions, digest=digest)

    def _stages(self, name: str, form: StageForm) -> Iterator[Stage]:
        """The stage of the file, or the stages of its sweep."""
        self._check_stage(name, form)
        if form.sweep is None:
            yield self._stage(name, form, {})
            return
        axes = [
            [(option, *name_and_value) for name_and_value in self._values(name, option, values)]
            for option, values in form.sweep.items()
        ]
        points = math.prod(map(len, axes))
        if points > STAGES:
            self._refuse(f"the sweep has {points:,} stages; at most {STAGES:,} are read.", "stages", name, "sweep")
            return
        for point in itertools.product(*axes):
            swept = {option: (label, value) for option, label, value in point}
            yield self._stage(name, form, swept)

    def _values(self, stage: str, option: str, values: list[Any] | dict[str, Any]) -> list[tuple[str, Any]]:
        """(name, value) of each value of a sweep; an unnamed value is its own name."""
        if not values:
            self._refuse(f"the sweep of '{option}' has no values.", "stages", stage, "sweep", option)
        named = [(str(label), value) for label, value in values.items()] if isinstance(values, dict) else None
        for name in [label for label, _ in named] if named is not None else values:
            if isinstance(name, list | dict) or re.search(r"[(),=\s]", str(name)):
                self._refuse(
                    f"{name!r} cannot be part of a stage's name. Name the values: "
                    f"{option}: {{first: {name}, second: …}}.",
                    "stages", stage, "sweep", option,
                )  # fmt: skip
        pairs = named if named is not None else [(spelled(value), value) for value in values]
        names = [name for name, _ in pairs]
        if twice := next((name for name, count in Counter(names).items() if count > 1), None):
            self._refuse(f"{twice} is twice in the sweep of '{option}'.", "stages", stage, "sweep", option)
        return pairs

    def _stage(self, written: str, form: StageForm, swept: Mapping[str, tuple[str, Any]]) -> Stage:
        values = {option: value for option, (_, value) in swept.items()}
        start = values.pop("start", form.start)
        options, label = dict(form.model_extra or {}), form.label
        if label is not None:
            label = {**label, **values}
        else:
            options = {**self.form.common, **options, **values}
        shared = {} if label is not None else self.form.evals
        evals = {**shared, **form.evals}
        names = {option: text for option, (text, _) in swept.items()}
        swept_text = ",".join(f"{option}={text}" for option, text in names.items())
        texts = {"start": start, "options": options, "label": label, "evals": evals}
        texts = {key: rewritten(value, canonical) for key, value in texts.items()}
        return Stage(
            name=f"{written}({swept_text})" if swept_text else written, algo=form.algo, **texts,
            shared_evals=tuple(name for name in shared if name not in form.evals),
            sweep_of=written if swept_text else None, swept=names,
            needs=references(list(texts.values())),
        )  # fmt: skip

    # -- checks that need no algorithm ----------------------------------------------------------------------------

    def _check_common(self) -> None:
        option_names = [option.name for option in options_of(TrainConfig)]
        for key in self.form.common:
            if key in NOT_IN_RECIPES:
                self._refuse(f"'{key}' is not for recipes: {NOT_IN_RECIPES[key]}.", "common", key)
            elif key not in option_names:
                guess = nearest(OTHER_NAMES.get(key, key), option_names)
                self._refuse(
                    f"'{key}' is not an option of every algorithm.{guess} Write an algorithm's own options in its "
                    "stages.", "common", key,
                )  # fmt: skip

    def _check_folders(self, stages: list[Stage]) -> None:
        seen: dict[str, str] = {}
        for stage in stages:
            other = seen.setdefault(stage.folder, stage.name)
            if other != stage.name:
                keys = ("stages", stage.sweep_of or stage.name)
                self._refuse(f"'{stage.name}' and '{other}' would share the folder {stage.folder}: rename one.", *keys)

    def _check_stage(self, name: str, form: StageForm) -> None:
        where = ("stages", name)
        extra = form.model_extra or {}
        if not STAGE_NAME.fullmatch(name):
            self._refuse(f"'{name}' cannot name a stage: use letters, digits, _ and -, a letter first.", *where)
        for key in (*extra, *(form.sweep or {})):
            if key in NOT_IN_RECIPES:
                at = (*where, key) if key in extra else (*where, "sweep", key)
                self._refuse(f"'{key}' is not for recipes: {NOT_IN_RECIPES[key]}.", *at)
        for key in {"algo", "label", "evals", "sweep"} & set(form.sweep or {}):
            self._refuse(f"'{key}' cannot be swept: write a stage for each.", *where, "sweep", key)
        for key in set(extra) & set(form.sweep or {}):
            self._refuse(f"'{key}' is swept below, so this value is never used: remove it.", *where, key)
        if form.label is not None:
            self._check_label(where, form, extra)
        elif form.algo is not None and form.start is None and "start" not in (form.sweep or {}):
            self._refuse(f"the stage '{name}' trains, but has no start: add `start`.", *where)
        elif form.algo is None and not (form.evals or self.form.evals):
            self._refuse(f"the stage '{name}' neither trains nor evaluates: add `algo` or `evals`.", *where)

    def _check_label(self, where: tuple[str, ...], form: StageForm, extra: Mapping[str, Any]) -> None:
        if form.algo is not None:
            self._refuse("a stage has `algo` or `label`, not both.", *where, "label")
        for key in (*extra, *(("start",) if form.start else ()), *(("evals",) if form.evals else ())):
            guess = nearest(key, ["label"])
            self._refuse(
                f"'{key}' is not allowed next to `label`; write labelling options inside it.{guess}", *where, key
            )  # fmt: skip

    def _refuse(self, message: str, *keys: str | int) -> None:
        self.problems.append(f"{place(self.lines, (*self.top, *keys), self.path)}: {message}")
