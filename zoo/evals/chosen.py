"""From the text of `--eval` and `--score` to evaluations with their options: `pass_at_k(k=8, data=questions.jsonl)`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import ZooError, nearest
from zoo.evals import Eval, Score
from zoo.options.spelling import bind, parse

EXAMPLE = "pass_at_k(k=8, data=questions.jsonl, reward=numeric)"
MODELS = {"lm": "a language model", "scalar": "a reward model"}


@dataclass(frozen=True)
class Chosen:
    """An evaluation with its options. label: the text that asked for it, which is the name of its score."""

    label: str
    evaluation: Eval
    options: dict[str, Any]

    def run(self, subject: Any) -> Score:
        return replace(self.evaluation.run(subject, **self.options), name=self.label)


def choose(texts: Iterable[str], available: Mapping[str, Eval], head: str | None = None) -> list[Chosen]:
    """The evaluations that texts ask for. head: of the model, None if it is not known yet.

    Raises ZooError for an unknown evaluation, an unknown or missing option, and an evaluation for another kind of
    model.
    """
    return [_chosen(text, available, head) for text in texts]


def by_default(available: Mapping[str, Eval], head: str) -> list[Chosen]:
    """The evaluations for such a model that run if none is named."""
    return [
        Chosen(name, evaluation, {})
        for name, evaluation in available.items()
        if evaluation.head == head and evaluation.by_default
    ]


def _chosen(text: str, available: Mapping[str, Eval], head: str | None) -> Chosen:
    name, arguments = parse(text, "evaluation", EXAMPLE)
    if name not in available:
        raise ZooError(
            f"No evaluation is called '{name}'.{nearest(name, available)}",
            f"There are: {', '.join(available)}. `zoo eval --list` describes each.",
        )
    evaluation = available[name]
    if head is not None and evaluation.head not in (head, "none"):
        fitting = [key for key, option in available.items() if option.head == head]
        raise ZooError(
            f"The evaluation {name} is for {MODELS[evaluation.head]}, but this is {MODELS[head]}.",
            f"Evaluations for it: {', '.join(fitting)}.",
        )
    options = bind(evaluation.run, arguments, f"evaluation '{name}'")
    if missing := [
        option for option in options_of(evaluation) if option.default is option.empty and option.name not in options
    ]:
        raise ZooError(
            f"The evaluation '{name}' needs {' and '.join(option.name for option in missing)}.",
            f"Write for example {name}({missing[0].name}=…). `zoo eval --list` describes each option.",
        )
    return Chosen(text, evaluation, options)


def options_of(evaluation: Eval) -> list[inspect.Parameter]:
    """The options of an evaluation: the parameters of its function after the subject."""
    return list(inspect.signature(evaluation.run).parameters.values())[1:]
