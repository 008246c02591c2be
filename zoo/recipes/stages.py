"""Runs one stage: train, label data, or neither; then evaluate. Finished stages are left unchanged.

`stages.json` in the folder of a seed holds the key of each stage. It is written before a stage begins, so that after a
kill the key of each folder is known; a folder with another key is moved aside first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.contract import registry
from zoo.data.sources.mixture import data_defaults
from zoo.environments.named import data_of
from zoo.labelling.job import label_data
from zoo.labelling.options import LabelOptions
from zoo.models.facts import weights_of
from zoo.models.loading import head_of
from zoo.models.names import resolve_model
from zoo.options.checks import check_values
from zoo.options.config import Resolved, resolve
from zoo.options.fields import build
from zoo.options.spelling import parse
from zoo.randomness import seed_everything
from zoo.recipes.costs import clocks, peak_memory
from zoo.recipes.evaluate import Evaluations
from zoo.recipes.graph import LABELS, Job
from zoo.recipes.keys import stage_key
from zoo.recipes.schema import REFERENCE, Stage
from zoo.runs import Run, hold, in_turn
from zoo.terminal import Console
from zoo.training.record.progress import counter
from zoo.training.run import execute

Where = Callable[[Stage, str], str]
RECORDS = "stages.json"
SET_ASIDE = "replaced"
LOCKS = ".locks"
"""The folder, in that of a seed, with an empty folder for each stage: the process that makes the stage locks it."""


class Stages:
    """Runs the stages of one variant.

    where: a function from a stage and a key to the place in the recipe's file; console: for the user; log: for the
    detailed output of runs.
    """

    def __init__(self, jobs: list[Job], where: Where, command: str, console: Console, log: Console):
        self.jobs = {(job.seed, job.name): job for job in jobs}
        self.where, self.command, self.console, self.log = where, command, console, log
        self.keys: dict[tuple[int, str], str] = {}
        plugins = registry.manager()
        self.evals = registry.contributions(plugins, "evals")
        self.contributed = {
            **registry.contributions(plugins, "sources"), **registry.contributions(plugins, "rewards"),
        }  # fmt: skip

    def tell(self, text: str) -> None:
        self.console.say(text)

    def say(self, text: str) -> None:
        self.log.say(text)

    # -- facts about a stage --------------------------------------------------------------------------------------

    def filled(self, job: Job) -> Stage:
        """The stage with the paths of the stages that it needs, and the evaluations that fit its model."""
        stage = job.stage.at(job.seed, {name: self.jobs[job.seed, name].made for name in job.stage.needs})
        fitting = {
            label: text for label, text in stage.evals.items()
            if label not in stage.shared_evals or self._fits(job, parse(text)[0])
        }  # fmt: skip
        return stage.model_copy(update={"evals": fitting})

    def _fits(self, job: Job, name: str) -> bool:
        wanted = self.evals[name].head
        return wanted == "none" or wanted == self.head(job)

    def head(self, job: Job) -> str:
        """The kind of a stage's final model: lm or scalar, or `none` if it has no model."""
        if job.stage.algo:
            return registry.load_algorithm(job.stage.algo)[1].head
        start = job.stage.start
        if start is None or job.stage.label is not None:
            return "none"
        if match := REFERENCE.fullmatch(start):
            return self.head(self.jobs[job.seed, match[1]])
        # Other models would have to be fetched or made, which a plan must not do; a name means a language model.
        return head_of(resolve_model(start, self.say)) if Path(start).is_dir() else "lm"

    def resolved(self, job: Job) -> tuple[Resolved, Any]:
        """The complete configuration of a stage that trains, and its algorithm."""
        stage = self.filled(job)
        short, cls = registry.load_algorithm(str(stage.algo))
        layers: list[tuple[str, Mapping[str, Any]]] = [
            ("zoo reproduce", {"score": "none"}),
            *((self.place(stage, name), {name: value}) for name, value in stage.training_options.items()),
            ("zoo reproduce", {"name": job.folder.name, "out": str(job.folder.parent)}),
        ]
        resolved = resolve(
            str(stage.algo) if ".py" in str(stage.algo) else short, cls, layers, data_defaults, weights_of, data_of
        )
        check_values(resolved.core, resolved.origin)
        return resolved, cls

    def options(self, job: Job) -> dict[str, tuple[Any, str]]:
        """Every option of a stage with its origin."""
        if not job.stage.algo:
            stage = self.filled(job)
            options = stage.label if stage.label is not None else {"start": stage.start}
            return {name: (value, self.place(stage, name)) for name, value in options.items()}
        resolved, _ = self.resolved(job)
        return {name: (value, resolved.origin.get(name, "")) for name, value in resolved.as_dict().items()}

    def place(self, stage: Stage, name: str) -> str:
        """The origin of a stage's option; the seed is the runner's unless the file sets it."""
        return self.where(stage, "start" if name == "model" else name)

    def label_options(self, job: Job) -> LabelOptions:
        return build(LabelOptions, self.filled(job).label or {}, what=f"the labelling stage {job.name}")

    def origin(self, job: Job) -> str:
        """The model at the beginning of the chain of stages that leads to this stage."""
        start = str(job.stage.start)
        match = REFERENCE.fullmatch(start)
        return self.origin(self.jobs[job.seed, match[1]]) if match else start

    def key(self, job: Job) -> str:
        """The key of a stage, which includes the keys of the stages that it needs."""
        key = self.keys.get((job.seed, job.name))
        if key is None:
            code: list[Any] = []
            if job.stage.algo:
                resolved, cls = self.resolved(job)
                options, code = resolved.as_dict(), [cls]
            elif job.stage.label is not None:
                options = asdict(self.label_options(job))
            else:
                options = {"start": self.filled(job).start, "template": job.stage.options.get("template")}
                if args := job.stage.options.get("template_args"):
                    options["template_args"] = args
            key = stage_key(options, self.made(job), self.contributed, code)
            self.keys[job.seed, job.name] = key
        return key

    def made(self, job: Job) -> dict[str, str]:
        """`{path: key}` of the stages that a stage needs."""
        others = [self.jobs[job.seed, name] for name in job.stage.needs]
        return {other.made: self.key(other) for other in others if other.stage.algo or other.stage.label is not None}

    # -- what exists already ---------------------------------------------------------------------------------------

    def record(self, job: Job) -> dict[str, Any]:
        """The entry of a stage in stages.json."""
        return Run(job.folder.parent).read_json(RECORDS).get(job.name, {})

    def note(self, job: Job, **facts: Any) -> None:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(job.folder.parent, lambda: None):
            records = Run(job.folder.parent).read_json(RECORDS)
            records[job.name] = {**records.get(job.name, {}), **facts}
            Run(job.folder.parent).write_json(RECORDS, records)

    def evaluations(self, job: Job) -> Evaluations:
        stage = self.filled(job)
        head = self.head(job) if stage.evals else "none"
        return Evaluations(job, stage, self.key(job), self.evals, self.made(job), self.contributed, head)

    def made_already(self, job: Job) -> bool:
        """Whether training or labelling of this stage, with this key, is finished."""
        if job.folder.exists() and self.record(job).get("key") != self.key(job):
            return False
        if job.stage.algo:
            return Run(job.folder).is_complete
        if job.stage.label is not None:
            return "summary" in Run(job.folder).read_json(Path(LABELS).with_suffix(".json").name)
        return True

    def is_finished(self, job: Job) -> bool:
        """Whether nothing is left to do for a stage."""
        return self.made_already(job) and not self.evaluations(job).missing

    # -- running ---------------------------------------------------------------------------------------------------

    def make(self, job: Job) -> None:
        """Run the unfinished parts of a stage. Raises ZooError if another process is at it."""
        place = job.folder.parent / LOCKS / job.folder.name
        place.mkdir(parents=True, exist_ok=True)
        with hold(place, f"Another process is working in {job.folder}.", self.command):
            self._tidy(job)
            self._make(job)

    def _tidy(self, job: Job) -> None:
        """Remove half-written files, which a kill may leave."""
        for left in (*job.folder.glob(".tmp-*"), *job.folder.parent.glob(f".tmp-{job.folder.name}*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _make(self, job: Job) -> None:
        self._begin(job)
        started = clocks()
        try:
            if not self.made_already(job):
                with peak_memory() as peak:
                    self._train(job) if job.stage.algo else self._label(job)
                self.note(job, memory_gb=peak())
            evaluations = self.evaluations(job)
            evaluations.make(self.say, self.tell, lambda label: counter(self.log, label))
        finally:
            former = self.record(job)
            self.note(
                job, **{name: float(former.get(name, 0.0)) + now - started[name] for name, now in clocks().items()}
            )

    def _begin(self, job: Job) -> None:
        """Make sure that the stage's folder belongs to its key or does not exist."""
        if job.folder.exists() and self.record(job).get("key") != self.key(job):
            self._set_aside(job)
        if self.record(job).get("key") != self.key(job):
            self.note(job, key=self.key(job), **dict.fromkeys(clocks(), 0.0))
        if not job.stage.algo:
            job.folder.mkdir(parents=True, exist_ok=True)

    def _set_aside(self, job: Job) -> None:
        aside = job.folder.parent / SET_ASIDE
        aside.mkdir(exist_ok=True)
        number = next(n for n in range(1, 1_000_000) if not (aside / f"{job.folder.name}-{n}").exists())
        os.rename(job.folder, aside / f"{job.folder.name}-{number}")
        self.tell(f"  An earlier result with other options or data was moved to {aside / job.folder.name}-{number}.")

    def _train(self, job: Job) -> None:
        resolved, cls = self.resolved(job)
        begun = Run(job.folder) if (job.folder / "run.yaml").is_file() else None
        if begun is not None:
            resolved.core.name = None
        execute(resolved, cls, self.log, resumed=begun, command=self.command)

    def _label(self, job: Job) -> None:
        seed_everything(job.seed)
        summary = label_data(
            self.label_options(job), job.folder / LABELS, str(job.folder.parent), self.say,
            counter(self.log, "pairs"),
        )  # fmt: skip
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        self.note(job, summary=numbers)
