"""The evaluations of a stage; each score is stored in the stage's folder as soon as it is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zoo.evals import Eval, Score
from zoo.evals.chosen import choose
from zoo.evals.kept_scores import with_cases, write_score
from zoo.evals.subject import load_subject
from zoo.options.spelling import parse
from zoo.randomness import seed_everything
from zoo.recipes.graph import Job
from zoo.recipes.keys import code_digest, digest, stage_key
from zoo.recipes.schema import MEASURED, Stage
from zoo.report.plots.series import Series, start_and_end
from zoo.runs import Run

KEPT = "evals.json"
Say = Callable[[str], None]


class Evaluations:
    """The evaluations of one stage. key: of the weights, so that other weights are evaluated again."""

    def __init__(
        self, job: Job, stage: Stage, key: str, evals: Mapping[str, Eval], made: Mapping[str, str],
        contributed: Mapping[str, Any], head: str,
    ):  # fmt: skip
        """head: the kind of the stage's model."""
        self.head = head
        self.job, self.stage, self.run, self.evals = job, stage, Run(job.folder), evals
        self.keys = {
            label: digest([
                key, stage_key({"eval": spelling}, made, contributed), code_digest(evals[parse(spelling)[0]])
            ])
            for label, spelling in stage.evals.items()
        }  # fmt: skip
        self.kept: dict[str, Any] = {
            label: entry for label, entry in self.run.read_json(KEPT).items() if entry["key"] == self.keys.get(label)
        }
        self._subject: Any = None

    @property
    def missing(self) -> list[str]:
        """The labels of evaluations without a score."""
        return [label for label in self.stage.evals if label not in self.kept]

    def make(self, say: Say, tell: Say, progress: Callable[[str], Callable[[int, int], None]]) -> None:
        """Run the missing evaluations. say: gets messages about models and data; tell: gets the results."""
        for label in self.missing:
            (chosen,) = choose([self.stage.evals[label]], self.evals)
            # Samples must not depend on what this process did before.
            seed_everything(self.job.seed)
            subject: Any = None
            if chosen.evaluation.head != "none":
                subject = replace(self._loaded(say), progress=progress(label))
            score = replace(chosen.run(subject), name=label)
            self._keep(label, score)
            tell(f"  {label} {score.text()}")
        self._subject = None

    def _keep(self, label: str, score: Score) -> None:
        write_score(self.run, "after", score)
        self.kept[label] = {"key": self.keys[label], "score": score.as_json()}
        self.run.write_json(KEPT, {name: self.kept[name] for name in self.stage.evals if name in self.kept})

    def _loaded(self, say: Say) -> Any:
        if self._subject is None:
            trained, options = self.stage.algo is not None, self.stage.options
            self._subject = load_subject(
                str(self.job.folder if trained else self.stage.start), str(self.job.folder.parent), say,
                template=options.get("template"), args=options.get("template_args"),
                precision=options.get("precision", "auto"),
                against=self.stage.start if self.head == "lm" else None,
            )  # fmt: skip
        return self._subject


# -- numbers for claims ------------------------------------------------------------------------------------------


def scores_of(job: Job) -> dict[str, dict[str, Any]]:
    """The score of each evaluation of a stage, by its label."""
    return {label: kept["score"] for label, kept in Run(job.folder).read_json(KEPT).items()}


def cases_of(job: Job) -> dict[str, Score]:
    """The same as scores, with their cases."""
    completed = with_cases(Run(job.folder), "after")
    return {label: completed(Score(**score)) for label, score in scores_of(job).items()}


def eval_values(job: Job) -> dict[str, float]:
    """The values of a stage's evaluations: `label`, and `label.detail` for details that are numbers."""
    values: dict[str, float] = {}
    for label, score in scores_of(job).items():
        details = {f"{label}.{name}": value for name, value in score.get("details", {}).items() if _is_number(value)}
        values |= {label: score["value"], **details}
    return values


def stage_value(job: Job, metric: str, record: Mapping[str, Any]) -> float | None:
    """A number of a stage that is not from an evaluation, None if there is none.

    A number that was measured once or from time to time is its last value. A metric of every step is averaged over the
    last tenth, because a single step is mostly noise. record: the runner's notes on the stage.
    """
    run = Run(job.folder)
    if job.stage.label is not None:
        value = record.get("summary", {}).get(metric)
    elif metric in MEASURED:
        value = {**run.summary, **run.read_json("timing.json"), **record}.get(metric)
    else:
        points = Series(run.log_history).of(metric)
        every_step = len(points) > 0.5 * run.summary.get("steps", 0)
        value = None if not points else start_and_end(points)[1] if every_step else points[-1][1]
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
