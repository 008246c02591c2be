"""The form of a recipe file: its keys and their values, and the JSON schema for editors.

A mistake is reported with its file, its line, and the nearest key. The options of a stage are only values here;
`zoo.recipes.check` compares them with the algorithm. `zoo.recipes.schema` has the recipe after its sweeps have become
stages; its classes share these keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from zoo.errors import ZooError, nearest
from zoo.options.config import TrainConfig
from zoo.options.fields import options_of
from zoo.recipes.find import Lines, place

STAGE_NAME = re.compile(r"[A-Za-z]\w*(?:-\w+)*")
METRIC = re.compile(r"([A-Za-z]\w*(?:-\w+)*(?:\([^()]*\))?)\.(.+)")
"""STAGE.METRIC of a claim: `tuned.gsm8k`, `swept(beta=0.1).val/loss`, `swept(*).kl`."""
CLAIM_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RULES = ("paper", "above", "below", "between", "orders", "by", "untested")
"""A claim states exactly one of these; `orders` may say `by` how much."""
DIFFERENCES = ("above", "below", "between")
"""Rules that may be about a difference from a baseline."""
ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7}")


Text = Annotated[str, StringConstraints(strip_whitespace=True)]


class Form(BaseModel):
    """A read-only mapping of a recipe file: no unknown keys, no text for a number and no number for a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Paper(Form):
    """The paper: its arXiv id, or its address if it has none."""

    arxiv: str | None = Field(None, description='The id as text, in quotes: "2402.01306".')
    version: str | None = Field(None, description="Which version is reproduced: v3, ICML 2024.")
    url: str | None = Field(None, description="The address of a paper that is not on arXiv.")

    @model_validator(mode="after")
    def _named(self) -> Paper:
        if self.arxiv is None and self.url is None:
            raise ValueError("give arxiv or url")
        if self.arxiv is not None and not ARXIV.fullmatch(self.arxiv):
            raise ValueError(
                f'{self.arxiv!r} is not an arXiv id: write it as "2402.01306", with its version under `version:`'
            )
        return self

    @property
    def text(self) -> str:
        """`arXiv:2402.01306`, or the address."""
        return f"arXiv:{self.arxiv}" if self.arxiv else self.url or ""


class At(Form):
    """Read the metric at the point of a sweep at which another metric has this value."""

    metric: str
    value: float


class Claim(Form):
    """A claim of the paper: `says`, what is measured, and exactly one rule for the result."""

    id: str | None = Field(
        None, description="Its name in results, which never changes: gold-rises. Required where it is judged."
    )
    says: str = Field(description="The claim in plain words.")
    metric: str | None = Field(None, description="STAGE.METRIC, such as tuned.gsm8k or swept(*).kl.")
    baseline: str | None = Field(
        None,
        description="The STAGE.METRIC for by; above, below and between subtract it.",
    )
    by: float | None = Field(
        None, description="The smallest effect that matters: metric − baseline is above 0, by this or more."
    )
    above: float | None = Field(None, description="Above this.")
    below: float | None = Field(None, description="Below this.")
    between: list[float] | None = Field(None, description="Between these two.", min_length=2, max_length=2)
    orders: list[str] | None = Field(None, description="STAGE.METRIC's that ascend.", min_length=1)
    paper: float | None = Field(None, description="The paper's number, which the mean is `within`.")
    within: float | None = Field(None, description="For paper: how far away the mean may be.", ge=0)
    untested: str | None = Field(None, description="Why no stage can measure it, for a claim that remains untested.")
    at: At | None = None
    where: str = Field(description="Where the paper says it: Table 3, section 4.2.")
    exact: bool = Field(False, description="The number holds at any scale, so a laptop may test it.")

    @model_validator(mode="after")
    def _one_rule(self) -> Claim:
        if self.id is not None and not CLAIM_ID.fullmatch(self.id):
            raise ValueError(f"the id {self.id!r} is not made of small letters, digits and hyphens")
        given = [rule for rule in RULES if getattr(self, rule) is not None]
        if given == ["orders", "by"]:
            given = ["orders"]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(RULES)}; it has {' and '.join(given) or 'none'}")
        (rule,) = given
        if (self.metric is None) != (rule in ("orders", "untested")):
            raise ValueError(f"{rule} {'goes without' if self.metric else 'needs'} a metric")
        for name, owner, others in (("baseline", "by", DIFFERENCES), ("within", "paper", ())):
            if (is_set := getattr(self, name) is not None) != (rule == owner) and not (is_set and rule in others):
                raise ValueError(f"{owner} needs {name}" if rule == owner else f"{name} is for {owner}, not for {rule}")
        if self.orders and len(self.orders) == 1 and "(*)" not in self.orders[0]:
            raise ValueError("orders compares two metrics or more, or those of a sweep")
        if self.orders and (self.by or 0) < 0:
            raise ValueError("by is a number above 0 for orders: turn the order round")
        if self.between and self.between[0] >= self.between[1]:
            raise ValueError("between needs the smaller number first")
        if self.at and not (self.metric and self.metric.partition(".")[0].endswith("(*)")):
            raise ValueError("`at` reads a metric over a sweep: write it as STAGE(*).METRIC")
        for metric in (self.metric, self.baseline, *(self.orders or ()), self.at.metric if self.at else None):
            if metric is not None and not METRIC.fullmatch(metric):
                raise ValueError(f"{metric!r} is not STAGE.METRIC")
        return self

    @property
    def rule(self) -> str:
        """Which of RULES it states."""
        return next(rule for rule in RULES if getattr(self, rule) is not None)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every STAGE.METRIC that it reads."""
        named = (self.metric, self.baseline, *(self.orders or ()), self.at.metric if self.at else None)
        return tuple(dict.fromkeys(name for name in named if name))


class StageKeys(Form):
    """The keys of a stage, besides its options and its sweep."""

    algo: str | None = Field(None, description="The algorithm that trains; without it, `start` is only evaluated.")
    label: dict[str, Any] | None = Field(
        None, description="Instead of algo: options of `zoo label`; the stage writes data."
    )
    start: str | None = Field(None, description="The start: a model as for --model, or stage:NAME.")
    evals: dict[str, str] = Field({}, description="Metric → evaluation, such as gold: gold(samples=512).")


class StageForm(StageKeys):
    """A stage: options of `zoo train`, and these keys."""

    model_config = ConfigDict(extra="allow")

    sweep: dict[str, list[Any] | dict[str, Any]] | None = Field(
        None, description="Option → values (or names → values): one stage for each value.", min_length=1
    )


class VariantForm(Form):
    """Stages in order, and claims about them."""

    common: dict[str, Any] = Field({}, description="Options of `zoo train` for all stages.")
    stages: dict[str, StageForm] = Field(min_length=1, description="The stages, in the order in which they run.")
    evals: dict[str, str] = Field({}, description="Evaluations of every stage: metric → evaluation.")
    claims: list[Claim] = Field([], description="What the paper claims about the stages.")


class Conditions(Form):
    """How a smaller experiment is run, and what a reader may conclude from it."""

    tests: Text = Field(description="What is compared with what.")
    seeds: int = Field(
        3, ge=1, le=20, description="How many seeds are run before claims are judged for the first time."
    )
    minutes: float = Field(gt=0, description="How long a run takes on two cores, in minutes.")
    caveat: Text = Field(description="What this does not show.")
    findings: Text = Field("", description="The results, their likely reasons, and what a reader may conclude.")


class ScaleForm(Conditions, VariantForm):
    """The mechanism behind the claims, tested at a smaller scale than the paper's."""

    @model_validator(mode="after")
    def _named(self) -> ScaleForm:
        ids = [claim.id for claim in self.claims if claim.untested is None]
        for claim in self.claims:
            if claim.untested is None and claim.id is None:
                raise ValueError(f"the claim '{claim.says}' has no id: add one, such as `id: gold-rises`")
            if claim.id is not None and ids.count(claim.id) > 1:
                raise ValueError(f"two claims have the id '{claim.id}'")
        return self


class Head(Form):
    """What a recipe says about the paper as a whole."""

    title: str
    paper: Paper
    hardware: str = Field(description='As the paper says, or "not reported".')
    about: Text = Field("", description="One paragraph: the mechanism.")
    deviations: list[str] = Field([], description="How it differs from the paper.")
    not_reported: list[str] = Field([], description="What the paper does not report.")
    notes: Text = ""


class RecipeForm(Head, VariantForm):
    """A recipe of the zoo: what a paper claims, with the experiment behind it."""

    extends: str | None = Field(None, description="Another recipe, whose keys are used if this one does not have them.")
    laptop: ScaleForm | None = Field(None, description="An experiment that takes minutes on a CPU.")
    small: ScaleForm | None = Field(None, description="One on the default language model.")
    gpu: ScaleForm | None = Field(None, description="One that takes an hour on a GPU.")


def parse(content: Mapping[str, Any], lines: Lines, path: Path) -> RecipeForm:
    """A file's content as a RecipeForm. Raises ZooError that names every mistake with its line."""
    try:
        return RecipeForm.model_validate(content)
    except ValidationError as error:
        mistakes = [_told(mistake, lines, path) for mistake in error.errors()]
        raise ZooError(
            "\n".join(message for message, _ in mistakes), next((hint for _, hint in mistakes if hint), "")
        ) from None


def _told(error: Any, lines: Lines, path: Path) -> tuple[str, str]:
    """The message and hint for one mistake."""
    location = tuple(key for key in error["loc"] if not _of_a_union(key))
    where = place(lines, location, path)
    name = ".".join(str(key) for key in location)
    if error["type"] == "extra_forbidden":
        keys = list(_form_at(location[:-1]).model_fields)
        key = str(location[-1])
        return f"{where}: unknown key '{key}'.{nearest(key, keys)}", f"Known keys here: {', '.join(keys)}."
    if error["type"] == "missing":
        hint = _form_at(location[:-1]).model_fields[str(location[-1])].description or ""
        return f"{where}: the key '{name}' is missing.", f"{location[-1]}: {hint}" if hint else ""
    if error["type"] == "value_error":
        return f"{where}: {name}: {error['ctx']['error']}.", ""
    message = error["msg"].replace("Input should be", "must be").replace("a valid string", "text")
    message = re.sub(r"a valid (dictionary|list).*|an? (?:object|instance of \w+).*", _shape, message)
    quoted = " Put it in quotes." if error["type"] == "string_type" and isinstance(error["input"], int | float) else ""
    return f"{where}: {name} {message}, not {error['input']!r}.{quoted}", ""


def _shape(match: re.Match[str]) -> str:
    return "a list" if match[1] == "list" else "a mapping"


def _of_a_union(key: str | int) -> bool:
    """Whether a key is pydantic's name for a member of a union, such as `list[any]`."""
    return isinstance(key, str) and bool(re.fullmatch(r"(list|dict)\[.*\]", key))


def _form_at(location: Sequence[str | int]) -> type[Form]:
    """The form of the mapping at a path of keys, which may hold names of stages and indices of lists."""
    form: type[Form] = RecipeForm
    for key in location:
        if isinstance(key, str) and key in form.model_fields:
            form = next(iter(_forms_in(form.model_fields[key].annotation)), form)
    return form


def _forms_in(annotation: Any) -> list[type[Form]]:
    if isinstance(annotation, type) and issubclass(annotation, Form):
        return [annotation]
    return [form for part in get_args(annotation) for form in _forms_in(part)]


def json_schema() -> dict[str, Any]:
    """A JSON schema of recipe files, for editors; options of the core come with their help."""
    schema = RecipeForm.model_json_schema()
    options = {
        option.name: {"description": option.help} for option in options_of(TrainConfig) if option.name != "model"
    }
    stage = schema["$defs"]["StageForm"]
    stage["properties"] |= {name: about for name, about in options.items() if name not in stage["properties"]}
    for part in (schema, schema["$defs"]["ScaleForm"]):
        part["properties"]["common"] |= {"properties": options, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
