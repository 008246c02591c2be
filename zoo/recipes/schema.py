"""The content of a recipe after its file is read: variants, stages with all their options, and claims.

`zoo.recipes.load` makes these from a file; training and judging use nothing else. Sweeps are expanded to stages, every
stage includes the `common` options, and each stage lists the stages that it needs. The form of the file itself is in
`zoo.recipes.form`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.recipes.find import SIZES, Lines, place
from zoo.recipes.form import Claim, Conditions, Form, Head, StageKeys

REFERENCE = re.compile(r"\bstage:([A-Za-z]\w*(?:-\w+)*(?:\([^()]*\))?)")
"""`stage:NAME` in any text of a stage: the run or the data that another stage of this variant makes."""

MEASURED = ("cpu_seconds", "seconds", "steps", "num_tokens", "memory_gb")
"""The runner's measures of every stage that trains."""


class Stage(StageKeys):
    """One step of a variant: it trains (`algo`), writes data (`label`), or only evaluates `start` (neither).

    options: those of `zoo train`, including `common` ones, without `model`, which is `start`; label: those of
    `zoo label`, or None; evals: metric name → spelling of an evaluation; shared_evals: which of these are for every
    stage (and are left out if they do not fit the stage's model); sweep_of: the name in the file, for a stage of a
    sweep; swept: its values; needs: the stages that its texts refer to.
    """

    name: str
    options: dict[str, Any] = {}
    shared_evals: tuple[str, ...] = ()
    sweep_of: str | None = None
    swept: dict[str, str] = {}
    needs: tuple[str, ...] = ()

    @property
    def makes(self) -> str | None:
        """The kind of data that a labelling stage makes: a teacher's demonstrations, or pairs; else None."""
        if self.label is None:
            return None
        return "demonstration" if self.label.get("teacher") else "preference"

    @property
    def folder(self) -> str:
        """The name of its folder and its run: `tuned-beta-0.05` for `tuned(beta=0.05)`."""
        return re.sub(r"[^\w.+-]", "-", self.name.removesuffix(")"))

    def at(self, seed: int, made: Mapping[str, str] | None = None) -> Stage:
        """The stage for one seed: `{seed}` is replaced, and `seed` is set unless the stage sets it.

        made: `{stage: value of stage:NAME}`, the folder of its run or the file of its data; without it, references
        remain. Raises KeyError for a stage that is not in `made`.
        """

        def filled(value: Any) -> Any:
            if isinstance(value, str):
                text = value.replace("{seed}", str(seed))
                return text if made is None else REFERENCE.sub(lambda found: made[found[1]], text)
            if isinstance(value, Mapping):
                return {key: filled(item) for key, item in value.items()}
            return [filled(item) for item in value] if isinstance(value, list) else value

        label = None if self.label is None else {"seed": seed, **filled(self.label)}
        options = {"seed": seed, **filled(self.options)}
        changed = {"label": label, "options": options, "start": filled(self.start), "evals": filled(self.evals)}
        return self.model_copy(update=changed)

    @property
    def training_options(self) -> dict[str, Any]:
        """The options for `zoo train --algo ALGO`, with `start` as the model."""
        return {**({"model": self.start} if self.start is not None else {}), **self.options}


class Variant(Form):
    """The stages and claims of one scale. `name`: its size, one of SIZES; conditions: how a smaller experiment is
    run; digest: of what decides in it."""

    name: str
    stages: dict[str, Stage]
    claims: list[Claim] = []
    conditions: Conditions | None = None
    digest: str = ""

    @property
    def seeds(self) -> int:
        """How many seeds are run."""
        return self.conditions.seeds if self.conditions else 1

    @property
    def top(self) -> tuple[str, ...]:
        """The path of keys to it in the file."""
        return () if self.name == "full" else (self.name,)

    def matching(self, reference: str) -> list[str]:
        """The stages that `tuned`, `tuned(beta=0.1)` or `tuned(*)` names; empty if there is none."""
        wanted = canonical(reference)
        if wanted.endswith("(*)"):
            return [stage.name for stage in self.stages.values() if stage.sweep_of == wanted[:-3]]
        return [wanted] if wanted in self.stages else []

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms of its stages, in order."""
        return tuple(dict.fromkeys(stage.algo for stage in self.stages.values() if stage.algo))


class Recipe(Head):
    """A paper, its full-scale experiment, and smaller ones. `package`: the installed package it came with."""

    name: str
    path: Path
    package: str = ""
    full: Variant
    laptop: Variant | None = None
    small: Variant | None = None
    gpu: Variant | None = None
    lines: Lines = {}

    @property
    def variants(self) -> list[Variant]:
        """Those that it has, the smallest first."""
        return [variant for size in SIZES if (variant := getattr(self, size)) is not None]

    def variant(self, size: str) -> Variant:
        """That of a size. Raises ZooError if it has none."""
        found: Variant | None = getattr(self, size)
        if found is None:
            flags = ", ".join(f"--{variant.name}" for variant in self.variants)
            raise ZooError(f"The recipe {self.name} has no {size} variant.", f"It has: {flags}.")
        return found

    def results_path(self, size: str) -> Path:
        """The file with the results of its last run: `results/NAME.json` for a laptop, else with the size."""
        return self.path.parent / "results" / f"{self.name}{'' if size == 'laptop' else f'-{size}'}.json"

    def where(self, variant: Variant, *keys: str | int) -> str:
        """`recipes/mine.yaml:12`: the line of the key at this path in a variant, or of the nearest parent key."""
        return place(self.lines, (*variant.top, *keys), self.path)

    def has(self, variant: Variant, *keys: str | int) -> bool:
        """Whether the file has a key at this path within a variant."""
        return (*variant.top, *keys) in self.lines


def spelled(value: Any) -> str:
    """A value as text for a stage's name: numbers in their shortest form, so that 0.10 is 0.1."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return str(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def canonical(name: str) -> str:
    """A stage's name in its canonical form, whatever blanks and spellings of numbers it was written with."""
    first, bracket, rest = name.replace(" ", "").partition("(")
    if not bracket or rest == "*)":
        return f"{first}{bracket}{rest}"
    pairs = [part.partition("=") for part in rest.removesuffix(")").split(",")]
    return f"{first}({','.join(f'{key}={spelled(value)}' for key, _, value in pairs)})"


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every `stage:NAME` in its texts as `stage:change(NAME)`."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: f"stage:{change(found[1])}", value)
    if isinstance(value, Mapping):
        return {key: rewritten(item, change) for key, item in value.items()}
    return [rewritten(item, change) for item in value] if isinstance(value, list) else value


def references(value: Any) -> tuple[str, ...]:
    """The stages that `stage:NAME` names in a text, or in the texts of a list or mapping."""
    if isinstance(value, str):
        return tuple(dict.fromkeys(REFERENCE.findall(value)))
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return tuple(dict.fromkeys(name for item in inside for name in references(item)))
