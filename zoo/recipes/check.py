"""Checks before anything runs whether a recipe can run: algorithms, options, data kinds, evaluations, claims.

`zoo.recipes.load` checks what needs no plugin. This module checks the recipe against the installed plugins. All
mistakes are reported at once, each with file, line and the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zoo.cards import described
from zoo.contract import registry
from zoo.contract.algorithm import Algorithm
from zoo.data.sources.mixture import data_defaults, read_mixture
from zoo.errors import ZooError, nearest
from zoo.evals.chosen import MODELS, choose
from zoo.labelling.options import LabelOptions
from zoo.options.checks import check_values
from zoo.options.config import OTHER_NAMES, TrainConfig, resolve
from zoo.options.expression import Expression
from zoo.options.fields import build, options_of
from zoo.options.roles import POLICY, ROLES, Role
from zoo.options.spelling import parse
from zoo.recipes.fit import DataFit, model_problem
from zoo.recipes.form import METRIC, StageForm
from zoo.recipes.keys import DATA
from zoo.recipes.produced import named_nearest, produced
from zoo.recipes.schema import REFERENCE, Recipe, Stage, Variant, canonical, references
from zoo.recipes.structure import metrics_of, written_at
from zoo.rewards.judge_options import JUDGED
from zoo.runs import is_run_name
from zoo.training.outlook import evaluations


def check_recipe(recipe: Recipe, size: str | None = None, absent_files: bool = False) -> Recipe:
    """The recipe, with only those shared evaluations in each stage that fit its model.

    size: the only one to check, None for all; absent_files: data files may be missing, because they are made later.
    Raises ZooError that names every mistake with file and line.
    """
    problems: list[str] = []
    chosen = reversed(recipe.variants) if size is None else [recipe.variant(size)]
    checked = {variant.name: _Check(recipe, variant, problems, absent_files).run() for variant in chosen}
    if problems:
        raise ZooError(
            "\n".join(dict.fromkeys(problems)), "Nothing was run. docs/recipes.md describes the form of a recipe."
        )
    return recipe.model_copy(update=checked)


CODE = ("algo", "environment", "reward", "gold_reward")
"""Options that may name Python code where somebody types them."""
PYTHON = re.compile(r"[\w./~-]*\.py\b(?::\w+)?")
MODULE = re.compile(r"(?<![\w./=#-])(?!zoo\.|stage:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:function`; the zoo's own are installed."""
INSIDE = re.compile(r"\b(?:reward|environment)\s*=\s*")


def code_in(text: str, named: bool) -> str:
    """The file or path of Python that a text names, "" without one. named: whether a path of Python is read in it."""
    places = [text] if named else []
    # An option of an evaluation or of a reward: `best_of_n(reward=mine:worth)`.
    places += [text[at.end() :] for at in INSIDE.finditer(text)]
    found = PYTHON.search(text) or next(filter(None, map(MODULE.search, places)), None)
    return found[0] if found else ""


class _Check:
    """The check of one variant; mistakes go to `problems`."""

    def __init__(self, recipe: Recipe, variant: Variant, problems: list[str], absent_files: bool):
        self.recipe, self.variant, self.problems = recipe, variant, problems
        plugins = registry.manager()
        self.evals = evaluations()
        self.rewards = registry.contributions(plugins, "rewards")
        self.models = registry.contributions(plugins, "models")
        self.data = DataFit(registry.contributions(plugins, "sources"), absent_files)
        self.algorithms: dict[str, type[Algorithm]] = {}
        self.heads: dict[str, str | None] = {}

    def run(self) -> Variant:
        stages = {name: self._stage(stage) for name, stage in self.variant.stages.items()}
        variant = self.variant.model_copy(update={"stages": stages})
        self._claims(variant)
        return variant

    def _stage(self, stage: Stage) -> Stage:
        self._braces(stage)
        if self._code(stage):
            return stage
        if stage.label is not None:
            self._label(stage)
            return stage
        if stage.algo is not None:
            self._training(stage)
        else:
            option_names = [option.name for option in options_of(TrainConfig)]
            self._unknown(stage, option_names, "a stage that only evaluates")
            self._model(stage, ROLES[POLICY])
        self.heads[stage.name] = self._head(stage)
        return stage.model_copy(update={"evals": self._fitting(stage)})

    def _braces(self, stage: Stage) -> None:
        for key, value in {"start": stage.start, **stage.options}.items():
            for name in re.findall(r"\{(\w+)\}", value) if isinstance(value, str) else ():
                if name != "seed":
                    self._refuse(stage, key, message=f"{{{name}}} is not a placeholder; only {{seed}} is.")

    def _code(self, stage: Stage) -> bool:
        """Refuse what names a file or a path of Python: a recipe is read, and runs no code that it brings."""
        count = len(self.problems)
        texts: dict[tuple[str, ...], Any] = {
            ("algo",): stage.algo,
            **{(key,): value for key, value in stage.options.items()},
        }
        texts |= {("evals", key): value for key, value in stage.evals.items()}
        texts |= {("label", key): value for key, value in (stage.label or {}).items()}
        for keys, value in texts.items():
            if isinstance(value, str) and (found := code_in(value, named=keys[-1] in CODE)):
                why = (
                    "a recipe runs none that is not installed. Make it a plugin (docs/contract.md), and write its name."
                )
                self._refuse(stage, *keys, message=f"'{found}' is Python code; {why}")
        return len(self.problems) > count

    def _head(self, stage: Stage) -> str | None:
        """lm, scalar, none (no model), or None if it is unknown until the model is loaded."""
        if stage.algo is not None:
            cls = self.algorithms.get(stage.algo)
            return cls.head if cls else None
        if stage.start is None:
            return "none"
        return next((self.heads.get(name) for name in references(stage.start)), None)

    # -- options -------------------------------------------------------------------------------------------------

    def _training(self, stage: Stage) -> None:
        name = str(stage.algo)
        try:
            _, cls = described(name)
        except ZooError as error:
            self._refuse(stage, "algo", message=f"{error.message} {error.hint}")
            return
        self.algorithms[name] = cls
        option_names = [option.name for option in (*options_of(cls.Config), *options_of(TrainConfig))]
        if self._unknown(stage, option_names, f"the algorithm {name}"):
            return
        options = stage.at(0).training_options
        layers = [(self._at(stage, key), {key: value}) for key, value in options.items()]
        try:
            resolved = resolve(name, cls, layers, self._defaults_of(stage))
            check_values(resolved.core, resolved.origin)
        except ZooError as error:
            self.problems += [self._told(stage, line) for line in error.message.split("\n")]
            return
        for key in DATA:
            self._data(stage, key, cls.kinds(), vars(resolved.core))
        for key in ("reward", "gold_reward"):
            self._reward(stage, key)
        for role in resolved.roles.values():
            if role.head in ("lm", "scalar"):
                self._model(stage, role)

    def _defaults_of(self, stage: Stage) -> Callable[..., Mapping[str, Any]]:
        def found(source: str, cls: type[Algorithm]) -> Mapping[str, Any]:
            try:
                return data_defaults(source, cls)
            except ZooError as error:
                raise ZooError(f"{error} ({self._at(stage, 'data')})".replace("\n", " ")) from None

        return found

    def _told(self, stage: Stage, message: str) -> str:
        """A message of the core with `file:line` moved to the front from the brackets after the option's name."""
        match = re.search(r" \((\S+:\d+)\)", message)
        return f"{match[1]}: {message.replace(match[0], '', 1)}" if match else f"{self._at(stage)}: {message}"

    def _label(self, stage: Stage) -> None:
        options = stage.at(0).label or {}
        option_names = [option.name for option in options_of(LabelOptions)]
        unknown = [key for key in options if key not in option_names]
        for key in unknown:
            self._refuse(stage, "label", key, message=f"`zoo label` has no option '{key}'.{nearest(key, option_names)}")
        if unknown:
            return
        try:
            build(
                LabelOptions, options, what="`zoo label`", where={key: self._at(stage, "label", key) for key in options}
            )
        except ZooError as error:
            self._refuse(stage, "label", message=error.message)

    def _unknown(self, stage: Stage, known: list[str], of: str) -> bool:
        """Refuse unknown options; whether there were any."""
        unknown = [key for key in stage.options if key not in known]
        for key in unknown:
            guess = nearest(OTHER_NAMES.get(key, key), [*known, *StageForm.model_fields])
            self._refuse(stage, key, message=f"'{key}' is not an option of {of}.{guess}")
        return bool(unknown)

    def _data(self, stage: Stage, key: str, kinds: tuple[str, ...], options: Mapping[str, Any]) -> None:
        source = options[key]
        if source is None:
            return
        try:
            parts = read_mixture(str(source), self.data.named)
        except ZooError as error:
            self._refuse(stage, key, message=error.message)
            return
        for part in parts:
            needed_stages = references(part.source)
            made = self.variant.stages[needed_stages[0]].makes if needed_stages else None
            if problem := self.data.problem(part, kinds, options, made=made):
                self._refuse(stage, key, message=f"the data does not fit {stage.algo}: {problem}")

    def _reward(self, stage: Stage, key: str) -> None:
        """Refuse a reward expression that cannot be read, or that names an unknown reward."""
        text = stage.at(0).options.get(key)
        if text is None:
            return
        for name in references(text):
            if self.heads.get(name) == "lm":
                self._refuse(stage, key, message=f"stage {name} makes a language model, not a reward model.")
        reward_names = [*JUDGED, *self.rewards]
        try:
            expression = Expression(REFERENCE.sub("runs/stage", str(text)))
        except ZooError as error:
            self._refuse(stage, key, message=error.message)
            return
        for mention in expression.mentions:
            if (
                mention.name not in reward_names
                and not any(letter in mention.name for letter in ":/.")
                and (not is_run_name(mention.name))
            ):
                self._refuse(
                    stage, key, message=f"there is no reward '{mention.name}'.{nearest(mention.name, reward_names)}"
                )

    def _model(self, stage: Stage, role: Role) -> None:
        """Refuse a model that cannot exist, and a reward model where a language model is needed."""
        key = role.option
        text, at = str(stage.at(0).training_options.get(key) or ""), "start" if key == "model" else key
        try:
            for name in role.models(text).values() if text else ():
                self._one_model(stage, key, at, name)
        except ZooError as error:
            self._refuse(stage, at, message=f"{error.message} {error.hint}")

    def _one_model(self, stage: Stage, key: str, at: str, text: str) -> None:
        needed_stages = references(text)
        if problem := model_problem(text, self.models) if not needed_stages else "":
            self._refuse(stage, at, message=problem)
        writes = key != "critic_model" and stage.algo is not None and self.algorithms[stage.algo].head == "lm"
        if writes and needed_stages and self.heads.get(needed_stages[0]) not in (None, "lm", "none"):
            message = (
                f"stage {needed_stages[0]} makes a reward model, but {stage.algo} needs a model that writes answers."
            )
            self._refuse(stage, at, message=message)

    # -- evaluations and claims ----------------------------------------------------------------------------------

    def _fitting(self, stage: Stage) -> dict[str, str]:
        """The evaluations of a stage, without shared ones for another kind of model."""
        head = self.heads[stage.name]
        kept = {}
        for label, spelling in stage.evals.items():
            name = self._eval(stage, label)
            wanted = self.evals[name].head if name else None
            fits = None in (wanted, head) or wanted in (head, "none")
            if fits:
                kept[label] = spelling
            elif label not in stage.shared_evals:
                message = f"'{name}' is for {MODELS[str(wanted)]}, but this is {MODELS.get(str(head), 'no model')}."
                self._refuse(stage, "evals", label, message=message)
        return kept

    def _eval(self, stage: Stage, label: str) -> str | None:
        """The name of an evaluation if it exists; mistakes are noted."""
        try:
            return parse(choose([stage.at(0).evals[label]], self.evals)[0].label)[0]
        except ZooError as error:
            more = "" if "Did you mean" in error.message else f" {error.hint}"
            self._refuse(stage, "evals", label, message=f"{error.message}{more}")
            return None

    def _claims(self, variant: Variant) -> None:
        for i, claim in enumerate(variant.claims):
            for keys, metric in metrics_of(claim):
                for problem in self._missing(variant, metric):
                    self.problems.append(f"{self.recipe.where(variant, 'claims', i, *keys)}: {problem}")

    def _missing(self, variant: Variant, metric: str) -> Iterator[str]:
        """Why a claim's metric cannot be read; one message for all stages of a sweep."""
        match = METRIC.fullmatch(metric)
        if match is None:
            return
        for name in variant.matching(canonical(match[1])):
            stage = variant.stages[name]
            if stage.algo is not None and stage.algo not in self.algorithms:
                return
            metrics = produced(stage, self.algorithms.get(stage.algo or ""), self.evals)
            if metrics.lacks(match[2]):
                guess = named_nearest(match[2], metrics)
                yield f"no stage produces '{metric}': '{name}' has no metric '{match[2]}'.{guess}"
                return

    def _refuse(self, stage: Stage, *keys: str, message: str) -> None:
        self.problems.append(f"{self._at(stage, *keys)}: {message}")

    def _at(self, stage: Stage, *keys: str) -> str:
        return written_at(self.recipe, self.variant, stage, *keys)
