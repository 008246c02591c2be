"""From the text of `--eval` and `--score` to evaluations with their options: `pass_at_k(k=8, data=questions.jsonl)`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import ZooError, nearest, nearest_names
from zoo.evals import Eval, Score
from zoo.evals.tasks import LM_EVAL, task_names
from zoo.libraries.extras import installed_by, is_missing
from zoo.options.spelling import bind, parse, spell

EXAMPLE = "pass_at_k(k=8, data=questions.jsonl, reward=numeric)"
HARNESS = "lm_eval"
"""The evaluation that runs tasks of the library lm-eval."""
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
        raise _unknown(name, arguments, available)
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


def _unknown(name: str, options: Mapping[str, str], available: Mapping[str, Eval]) -> ZooError:
    """The error for a name that is none of zoo's evaluations, but perhaps a task of lm-eval."""
    what, near = f"No evaluation is called '{name}'", nearest(name, available)
    hint = f"There are: {', '.join(available)}. `zoo eval --list` describes each."
    if HARNESS not in available:
        return ZooError(f"{what}.{near}", hint)
    spelled = spell(HARNESS, {"task": name, **options})
    if is_missing(LM_EVAL[0]):
        install = f'If it is a task of lm-eval: {installed_by(*LM_EVAL)}, then write "{spelled}".'
        return ZooError(f"{what}.{near}", f"{hint} {install}" if near else f"{install} {hint}")
    tasks = task_names()
    if name in tasks:
        return ZooError(f"{what}, but lm-eval has such a task.", f'Write "{spelled}".')
    if not near and (names := nearest_names(name, tasks, 1)):
        near = f" Did you mean '{spell(HARNESS, {'task': names[0], **options})}'?"
    return ZooError(f"{what}.{near}", f"{hint} For a task of lm-eval: {HARNESS}(task=…).")


def options_of(evaluation: Eval) -> list[inspect.Parameter]:
    """The options of an evaluation: the parameters of its function after the subject."""
    return list(inspect.signature(evaluation.run).parameters.values())[1:]
