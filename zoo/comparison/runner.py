"""Runs a comparison: trains the missing runs, measures them, and gathers the results.

Runs follow one another, one seed of all entrants before the next seed, so that a stopped comparison is balanced; with
workers each run is a command of its own (`--only RUN`). Finished runs are kept in the folder; the same command
continues from there.
"""

from __future__ import annotations

import gc
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.comparison import measures, results
from zoo.comparison.entrants import START, Settings, default_folder
from zoo.comparison.plan import Plan, Planned, make_plan
from zoo.contract import registry
from zoo.data.encoding.named import listed, template_args
from zoo.errors import NO_RUN, TrainingStopped, ZooError, nearest, was_asked
from zoo.evals import Eval, Score, Subject
from zoo.evals.answers import generate, reward_eval
from zoo.evals.chosen import Chosen, choose
from zoo.evals.kept_scores import copy_score, write_score
from zoo.libraries.architecture import ending_ids
from zoo.libraries.quiet import quiet_libraries
from zoo.models.devices import choose_accelerator
from zoo.models.loading import load_model, load_template, require_head, rows_for
from zoo.models.names import Source, by_path, resolve_model
from zoo.models.precision import choose_precision
from zoo.models.start import resolve_start
from zoo.numbers import amount
from zoo.options.checks import names_in
from zoo.options.config import AUTO, TrainConfig
from zoo.options.roles import ROLES
from zoo.report.run_page import write_run_page
from zoo.rewards.reward import Reward
from zoo.rollout.engine import Sampling
from zoo.runs import Run, find_runs
from zoo.terminal import Console
from zoo.training.online.assembly import sampling_of
from zoo.training.record.progress import counter
from zoo.training.run import execute
from zoo.values.records import Records
from zoo.workers.make import without
from zoo.workers.tasks import Task, Workers, last_line, run_tasks

LOGS = "logs"
"""The folder of the output of runs that are made at the same time."""
PROMPTS_ASKED = 32
"""Prompts used to estimate the length of the start's answers."""


class Comparison:
    """One comparison and its folder; call the methods in order."""

    def __init__(
        self,
        settings: Settings,
        console: Console,
        *,
        out: str | None = None,
        tokens: int | None = None,
        cases: int | None = None,
        answer_tokens: int = 96,
        arguments: Sequence[str] = (),
        only: str = "",
        reward: str | None = None,
    ):
        """arguments: of the command that was typed; only: what stands before the name of a run in --only; reward: that
        of greedy answers to the held-out prompts is measured, in place of other evaluations."""
        self.settings, self.console, self.arguments = settings, console, arguments
        self.only, self.reward = only, reward
        self.tuning: dict[str, Any] = {}
        self.command = typed_command(arguments) if arguments else ""
        self.tokens, self.cases, self.answer_tokens = tokens, cases, answer_tokens
        quiet_libraries()
        cores = [settings.resolve(entrant).core for entrant in settings.entrants]
        self.core = cores[0]
        # The data may set a reference for only some of the entrants.
        self.score = next((core.score for core in cores if core.score != AUTO), AUTO)
        for role in ROLES.values():
            # A run's name refers to runs/, wherever the comparison's own runs are.
            if role.head == "lm" and (value := getattr(self.core, role.option)) is not None:
                setattr(self.core, role.option, role.with_models(value, by_path))
                if settings.given.get(role.option):
                    settings.given[role.option] = getattr(self.core, role.option)
        self.folder = Path(out or default_folder(settings, self.core))
        self.failed: list[dict[str, str]] = []

    def say(self, text: str) -> None:
        self.console.say(text)

    # -- the plan ------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Find the start, read the data, count the steps."""
        if self.core.reference is not None:
            self.settings.given["reference"] = self.core.reference
        self.source = resolve_start(self.core.model, "runs", self.say)
        require_head(self.source, "lm")
        self.template = load_template(
            self.source, self.core.template, trust_remote_code=self.core.trust_remote_code,
            new_tokens=listed(self.core.new_tokens), args=template_args(self.core.template_args), say=self.say,
        )  # fmt: skip
        self.plugins = registry.manager()
        available = registry.contributions(self.plugins, "evals")
        names = [] if self.score == AUTO else names_in(self.score)
        self.evals = {evaluation.label: evaluation for evaluation in choose(names, available, "lm")}
        self.device = torch.device(choose_accelerator(self.core.accelerator))
        self.precision = choose_precision(self.core.precision, self.device.type)[0]
        plan = make_plan(
            self.settings, self.template, self.source.name, str(self.folder), self.tokens, self.say, self._answer_length
        )  # fmt: skip
        self.held_out = measures.load_held_out(self.core, self.template, self.plugins, plan.trained_prompts, self.cases)
        if self.reward is not None:
            self.evals = {self.reward: self._rewarded(self.reward)}
        self.key = measures.settings_key(
            self.source.name,
            self.precision,
            self.held_out.fingerprint(),
            list(self.evals),
            self.cases,
            self.answer_tokens,
        )
        plan.notes += self.held_out.notes
        if not self.evals:
            plan.notes.append(
                "No evaluation is known for this data, so there is no held-out score: name one with --score."
            )
        return plan

    def _rewarded(self, text: str) -> Chosen:
        """The evaluation by a reward of greedy answers to the held-out prompts."""
        named = registry.contributions(self.plugins, "rewards")
        reward = Reward(text, named, str(self.folder), self.device.type, say=self.say, patience=1)
        greedy = Sampling(max_new_tokens=self.answer_tokens, temperature=0.0)

        def run(subject: Subject) -> Score:
            return reward_eval(text, subject, self.held_out.prompts, reward, greedy)

        return Chosen(text, Eval(f"Mean reward {text} of greedy answers to held-out prompts.", run), {})

    def _answer_length(self, core: TrainConfig, records: Records) -> float:
        """Mean length of the start's answers to some prompts, sampled as the run will sample."""
        step = max(1, len(records) // PROMPTS_ASKED)
        asked = [record["prompt"] for record in records[::step][:PROMPTS_ASKED]]
        answers = generate(self._subject(self.source), asked, sampling_of(core), core.seed)
        return sum(len(answer.completion) for answer in answers) / len(answers)

    # -- runs ----------------------------------------------------------------------------------------------------

    def go(self, plan: Plan, workers: Workers | None = None) -> dict[str, Any]:
        """Train and measure everything that is missing; returns the results, which are also written to the folder.

        workers: make the runs at the same time; None: one after another in this process.
        """
        runs = self._made(plan, workers)
        if not runs:
            raise ZooError("No run of the comparison finished.", self.failed[0]["error"])
        return results.gather(
            plan, runs, self.start.scores, self.start_run, list(self.evals), self.failed, self.folder, self.tuning
        )

    def make(self, plan: Plan, only: str) -> Run:
        """Train and measure one run. Raises ZooError if there is no such run, TrainingStopped if it fails."""
        names = [planned.name for planned in plan.runs]
        if only not in names:
            raise ZooError(
                f"No run of the comparison is named '{only}'.{nearest(only, names)}", f"It has: {', '.join(names)}."
            )
        made = self._made(replace(plan, runs=[planned for planned in plan.runs if planned.name == only]), None)
        if not made:
            raise TrainingStopped(f"{only} failed.", self.failed[0]["error"])
        return made[0][1]

    def _made(self, plan: Plan, workers: Workers | None) -> list[tuple[Planned, Run]]:
        """The runs, trained and measured, without those that have failed."""
        try:
            self.start = self._measured_start()
            if workers is not None:
                failed = self._at_the_same_time(plan, workers)
                made = [(planned, self._existing(planned)) for planned in plan.runs if planned.name not in failed]
            else:
                made = [(planned, self._one(planned, n, len(plan.runs))) for n, planned in enumerate(plan.runs, 1)]
        except KeyboardInterrupt:
            raise self._stopped("Stopped while measuring." if workers is None else "Stopped.", 130) from None
        return [(planned, run) for planned, run in made if run is not None]

    def _one(self, planned: Planned, number: int, count: int) -> Run | None:
        """A run, trained and measured; None if it failed."""
        self.say(f"\n{planned.name} (run {number} of {count})")
        run = self._trained(planned)
        if run is not None:
            self._measured(run)
        return run

    def _at_the_same_time(self, plan: Plan, workers: Workers) -> set[str]:
        """Make each run that is missing by a command of its own; the names of those that failed."""
        arguments = without(self.arguments, "--workers")
        tasks = [
            Task(
                planned.name, (*arguments, "--only", f"{self.only}{planned.name}"),
                self.folder / LOGS / f"{planned.name}.log",
            )
            for planned in plan.runs if not self._is_made(planned)
        ]  # fmt: skip
        self.say(f"\n{amount(len(tasks), 'run')} on {workers.name}")
        failed = run_tasks(tasks, workers, self.say)
        self.failed += [
            {"run": task.name, "error": f"{last_line(task.log)} (log in {task.log})"}
            for task in tasks if task.name in failed
        ]  # fmt: skip
        return failed

    def _is_made(self, planned: Planned) -> bool:
        run = self._existing(planned)
        return run is not None and run.is_complete and run.read_json("measures.json").get("key") == self.key

    def _stopped(self, message: str, status: int) -> TrainingStopped:
        again = self.command or "the same command"
        stopped = TrainingStopped(f"{message} Finished runs are kept in {self.folder}.", f"Continue with: {again}")
        stopped.exit_status = status
        return stopped

    def _trained(self, planned: Planned) -> Run | None:
        """The finished run of a plan: an existing run, a resumed run, or a new run; None if it failed."""
        existing = self._existing(planned)
        if existing is not None and existing.is_complete:
            self.say(f"{existing.path} is already finished.")
            return existing
        planned.resolved.core.name = None if existing is not None else self._free_name(planned.name)
        try:
            return execute(
                planned.resolved, planned.entrant.cls, self.console, resumed=existing, command=self.command
            )  # fmt: skip
        except ZooError as error:
            if was_asked(error):
                # A run without a step keeps nothing, but the comparison does.
                raise self._stopped(error.message.replace(NO_RUN, ""), error.exit_status) from None
            self.say(f"{planned.name} failed: {error.message}\nThe other runs continue.")
            self.failed.append({"run": planned.name, "error": error.message})
            return None
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _existing(self, planned: Planned) -> Run | None:
        """A run of the folder with exactly this configuration, on the same data."""
        wanted = _comparable(planned.resolved.as_dict())
        for run in find_runs(str(self.folder)):
            data = run.read_json("data.json")
            same_data = all(data.get(part, {}).get("fingerprint") == p for part, p in planned.fingerprints.items())
            if same_data and _comparable(run.config) == wanted:
                return run
        return None

    def _free_name(self, name: str) -> str:
        """The name, with a number if a run with other options has it."""
        taken, number = name, 1
        while (self.folder / taken).exists():
            number += 1
            taken = f"{name}-{number}"
        return taken

    # -- measuring -----------------------------------------------------------------------------------------------

    def _subject(self, source: Source) -> Subject:
        model = load_model(source, torch.float32, self.core.trust_remote_code).eval().to(self.device)
        if source == self.source:
            rows_for(model, self.template.new)
        self.template.eos_ids |= ending_ids(model)
        return Subject(
            model,
            self.template.tokenizer,
            self.template,
            self.precision,
            self.cases,
            counter(self.console, "answers"),
        )

    @property
    def start_run(self) -> Run:
        return Run(self.folder / START)

    def _measured_start(self) -> measures.Measured:
        """The measures of the start, computed once for all runs and stored in the folder."""
        kept = self.start_run.read_json("measures.json")
        if kept.get("key") == self.key:
            pairs = [(chosen, rejected) for chosen, rejected in kept["pair_logps"]]
            return measures.Measured(_scores(kept["scores"]), pairs)
        self.say("\nMeasuring the start")
        self.start_run.path.mkdir(parents=True, exist_ok=True)
        subject = self._subject(self.source)
        subject = replace(subject, start=subject.model)
        measured = measures.measure(subject, self.held_out, self.evals, self.answer_tokens)
        for score in measured.scores.values():
            write_score(self.start_run, "before", score)
        kept = {"key": self.key, "scores": measured.as_json(), "pair_logps": measured.pair_logps}
        self.start_run.write_json("measures.json", kept)
        return measured

    def _measured(self, run: Run) -> None:
        """Measure a finished run, unless it is measured already; its summary and report then show the scores."""
        if run.read_json("measures.json").get("key") == self.key:
            return
        subject, start = self._subject(resolve_model(str(run.path))), self._subject(self.source)
        measured = measures.measure(
            replace(subject, start=start.model), self.held_out, self.evals, self.answer_tokens,
            (start.model, self.start.pair_logps), lambda stage: counter(self.console, stage),
        )  # fmt: skip
        for name, score in measured.scores.items():
            copy_score(self.start_run, run, name, "before")
            write_score(run, "after", score)
        _add_scores(run, self.start, measured)
        run.write_json("measures.json", {"key": self.key, "scores": measured.as_json()})
        write_run_page(run)
        del subject, start
        gc.collect()


def _comparable(config: dict[str, Any]) -> str:
    """A configuration without the options that only name it."""
    return json.dumps({k: v for k, v in config.items() if k not in ("name", "out")}, sort_keys=True, default=str)


def _scores(kept: dict[str, dict[str, Any]]) -> dict[str, Score]:
    return {name: Score(**values) for name, values in kept.items()}


def _add_scores(run: Run, start: measures.Measured, trained: measures.Measured) -> None:
    """Add measures to summary.json next to the validation's numbers, as if the run itself had computed them."""
    summary, shared = run.summary, [name for name in trained.scores if name in start.scores]
    for when, measured in (("before", start), ("after", trained)):
        scores = {name: measured.scores[name] for name in shared}
        summary[when] = {**{name: score.value for name, score in scores.items()}, **summary.get(when, {})}
        summary["scores"][when] = {name: score.as_json() for name, score in scores.items()}
    run.write_json("summary.json", summary)


def typed_command(arguments: Sequence[str]) -> str:
    return shlex.join(["zoo", *arguments])
