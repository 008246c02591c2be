"""The stages of a run: assemble it, open its folder, score, train, write the model, score again."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.contract import registry
from zoo.contract.faults import describe_error
from zoo.data.encoding.named import template_text
from zoo.errors import NO_RUN, TrainingFailed, TrainingStopped, ZooError
from zoo.evals import Subject
from zoo.evals.kept_scores import HELD_OUT, write_samples, write_score
from zoo.libraries.peers import how_it_ended, is_lost_connection
from zoo.libraries.scattered import read_parts
from zoo.libraries.sharding import fill, shard, weights_to_gather
from zoo.models.card import base_named, write_card
from zoo.models.precision import autocast
from zoo.models.start import export_model, name_base
from zoo.options.config import AUTO, Resolved
from zoo.paths import write_text
from zoo.processes import gathered, is_distributed
from zoo.randomness import apart, seed_everything
from zoo.runs import BEST, ENDING, TEMPLATE, Run, check_name, create_run, default_name
from zoo.terminal import Console
from zoo.training.assembly import Assembly
from zoo.training.fingerprints import of_device
from zoo.training.fitting import Fitting
from zoo.training.online.rollouts import Rollouts
from zoo.training.record import report, shown
from zoo.training.record.checkpoints import newest
from zoo.training.record.heartbeat import beating
from zoo.training.record.listeners import Listeners, spoken_warnings
from zoo.training.record.progress import counter, duration
from zoo.training.record.records import Records
from zoo.training.record.signals import Signals, Stopped, exit_status, signal_name
from zoo.training.requeue import job_facts
from zoo.training.resuming import OPTIONS, contents, note_records, options_digest, refuse_ended, tidy
from zoo.training.roles import frozen
from zoo.training.step.module import PostTraining
from zoo.values.records import StreamedRecords

LAST_WORD = 3.0
"""Seconds in which the first process ends the others, where all of them have failed in the same way."""
STAGES = {
    "loading": "reading and loading", "before": "scores before", "training": "training",
    "after": "model and scores after", "report": "report",
}  # fmt: skip
"""The stages of a run, in their order, as they are told."""


class Execution:
    """The stages of one run, in the order of the methods. Each uses what the stages before it made."""

    def __init__(
        self,
        resolved: Resolved,
        algorithm: Any,
        console: Console,
        resumed: Run | None = None,
        allowed: Collection[str] = (),
        command: str = "",
        begun: float | None = None,
    ):
        self.resolved, self.core, self.algorithm = resolved, resolved.core, algorithm
        self.console, self.resumed, self.command = console, resumed, command
        self.run: Run
        self.created: Run | None = None
        self.begun = time.monotonic() if begun is None else begun
        self.took: dict[str, float] = {}
        self.fitting: Fitting | None = None
        self.plugins = registry.manager(algorithm)
        self.assembly = Assembly(resolved, algorithm, self.plugins, console, resumed, allowed)
        self.main, self.say = self.assembly.main, self.assembly.say
        self.listeners = Listeners(self.plugins, algorithm, self.say)
        for broken in registry.plugin_modules()[1]:
            self.say(f"Plugin '{broken.name}' of {broken.package} {broken.version} is left out: {broken.error}")

    def go(self) -> Run:
        """All stages. A run that fails before its first step leaves no folder."""
        with contextlib.ExitStack() as held, Signals(self._say_stopping) as self.signals:
            try:
                return self._stages(held)
            except Stopped as stopped:
                self._forget_unless_begun()
                raise self._stopped(stopped.number, "") from None
            except OSError as error:
                self._forget_unless_begun()
                raise self._explain(error) from error
            except BaseException as error:
                self._forget_unless_begun()
                self._keep_reason(error)
                self._wait_for_the_first(error)
                if (ended := self._ended_with_others(error)) is not None:
                    raise ended from error
                raise

    def _ended_with_others(self, error: BaseException) -> BaseException | None:
        """What to raise where another process has ended before or after the steps; else None."""
        of = self.assembly
        peers = of.connected.peers if of.connected else self.fitting.peers if self.fitting else None
        alone = self.main and not is_distributed()
        if peers is None or alone or isinstance(error, ZooError) or not is_lost_connection(error):
            return None
        gone = peers.gone_soon()
        if not peers.speaks(gone):
            return SystemExit(1)
        children = of.connected.children if of.connected else []
        ended = [f"process {rank} of {of.processes} has ended{how_it_ended(of.place, children, rank)}" for rank in gone]
        who = " and ".join(ended) or f"a process of {of.processes} on another machine has ended"
        then = f"Continue with: zoo resume {self.run.path}" if self._begun else "Start again."
        why = "If it said nothing above, it was killed, such as for its memory."
        return TrainingStopped(f"{who[0].upper()}{who[1:]}, so the others end too.", f"{why} {then}")

    def _wait_for_the_first(self, error: BaseException) -> None:
        """What went wrong in all processes is told by the first one, which ends the others that it started."""
        if not self.main and not isinstance(error, SystemExit):
            try:
                time.sleep(LAST_WORD)
            except Stopped:
                raise SystemExit(1) from None

    def _stages(self, held: contextlib.ExitStack) -> Run:
        if self.resumed and self.main:
            held.enter_context(self.resumed.alone())
            refuse_ended(self.resumed)
        elif self.main:
            check_name(self.core.out, self.core.name)
        if self.resumed and self.resumed.status == "finished":
            return self._end_again(self.resumed) if self.main else self.resumed
        held.enter_context(spoken_warnings(self.algorithm, self.say))
        self._connect(held)
        seed_everything(self.core.seed)
        self.load()
        held.callback(self.assembly.close)
        self.open_run()
        if self.created:
            held.enter_context(self.created.alone())
        with beating(self.run, self._progress) if self.main else contextlib.nullcontext():
            return self._steps_and_scores(held)

    def _connect(self, held: contextlib.ExitStack) -> None:
        """Start the processes that go through all stages together, if the models are shared out among them."""
        self.assembly.connect(held)

    def _steps_and_scores(self, held: contextlib.ExitStack) -> Run:
        self.fitting = Fitting(self.assembly, self.run, self.signals, self._notify, self.begun)
        held.callback(self.fitting.close)
        if self.resumed:
            self.fitting.restore()
        self._took("loading")
        # A run that was killed during its first scoring has no before.json.
        scored = self.resumed is not None and (self.run.path / "before.json").is_file()
        since = time.monotonic()
        before = self.run.read_json("before.json") if scored else self.score_before()
        self.fitting.recorder.deadline.closing = time.monotonic() - since
        self._took("before")
        stopped = self.fit()
        self._took("training")
        self.run = self.fitting.run
        if stopped:
            raise self._stopped(stopped, " The checkpoint is complete.")
        return self.finish(before)

    # -- stages --------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Model, template and data, then roles, records and steps."""
        self.assembly.load()
        self.assembly.plan()

    def open_run(self) -> None:
        """The run folder."""
        if self.resumed is not None:
            self.run = self.resumed
        elif self.main:
            # Without the name, run.yaml can be run again beside this run.
            config = {**self.resolved.as_dict(), "name": None}
            default = default_name(self.resolved.algo, self.assembly.source.short_name)
            self.run = create_run(
                self.core.out, self.core.name, default, config, self.command,
                device=of_device(self.assembly.device)["device"]["name"], data=self.assembly.data.facts,
                origins=self.resolved.origins(), fingerprints=contents(self.assembly.prints(), []), **job_facts(),
            )  # fmt: skip
            self.created = self.run
            if (text := template_text(self.core.template)) is not None:
                write_text(self.run.path / TEMPLATE, text)
        else:
            self.run = Run(Path(self.core.out))
        if self.together:
            self.run = Run(Path(gathered(str(self.run.path))[0]))

    @property
    def together(self) -> bool:
        """Whether all processes go through all stages, because the models are shared out among them."""
        return self.assembly.connected is not None

    def score_before(self) -> dict[str, Any]:
        scores = self.score("before")
        if self.main:
            self.run.write_json("before.json", scores)
            if self.fitting is None or self.fitting.checkpoint is None:
                note_records(self.run, Records(self.run).marks())
        return scores

    def score(self, when: str) -> dict[str, Any]:
        """Run the evaluations, in the first process only unless all are needed; returns their scores as JSON."""
        scores: dict[str, Any] = {}
        if not self.main and not self.together:
            return scores
        of = self.assembly
        of.policy.to(of.device)
        subject = Subject(
            of.policy, of.tokenizer, of.template, of.precision, start=self._start, out=self.core.out, say=self.say
        )
        for evaluation in of.evals:
            progress = counter(self.console, f"Scoring {evaluation.label} ({when})") if self.main else None
            # A run that is resumed does not score its start again, and its training draws the same numbers.
            with apart():
                score = evaluation.run(replace(subject, progress=progress))
            scores[evaluation.label] = score.as_json()
            if self.main:
                write_score(self.run, when, score)
            self.say(f"{evaluation.label} {when}: {score.text()}")
        if self.core.score == AUTO and not of.online and self.algorithm.head == "lm":
            self._answer_some(subject, when)
        return scores

    def _answer_some(self, subject: Subject, when: str) -> None:
        """Keep answers to a few held-out prompts."""
        try:
            progress = counter(self.console, f"Answering held-out prompts ({when})") if self.main else None
            with apart():
                samples = shown.answers_to_some(replace(subject, progress=progress), self.assembly.held_out)
        except ZooError as error:
            self.say(f"No answers to held-out prompts {when} training: {error.message}")
            return
        if samples and self.main:
            write_samples(self.run, HELD_OUT, when, samples)

    def _start(self) -> Any:
        """The weights that training started from, for evaluations that compare with them."""
        of = self.assembly
        return shard(frozen(self.core, of.source, of.policy, of.precision, of.template.new), self.core.offload)

    def fit(self) -> int:
        """Train; returns the number of the signal that stopped it, or 0."""
        assert self.fitting is not None
        try:
            return self.fitting.go()
        except TrainingFailed as failed:
            self._keep_failed(failed)
            raise

    def _notify(self, event: str, **facts: Any) -> None:
        if self.main:
            self.listeners.notify(event, run=self.run, **facts)

    def _say_stopping(self) -> None:
        self.say("Stopping after this step, with a checkpoint (again to stop at once).")

    def finish(self, before: dict[str, Any]) -> Run:
        """Write the model, score it, and write the summary. What the first process does alone, the others wait for."""
        assert self.fitting is not None
        peers = self.fitting.peers
        after = None
        if self.together:
            after = self._model_and_scores()
            peers.part()
        peers.first_alone(lambda: self._summarise(before, self._model_and_scores() if after is None else after))
        return self.run

    def _model_and_scores(self) -> dict[str, Any]:
        """Write the model; returns its scores."""
        assert self.fitting is not None
        of, module = self.assembly, self.fitting.module
        best = self.run.path / BEST
        if module.skipped_steps == module.steps_done:
            raise self._failed(module)
        if best.is_file():
            fill(of.policy, read_parts([best]))
        if not module.guarding.weights_are_finite():
            self._refuse_broken(module)
        self._finish_hook()
        self._tell_stream()
        self._export()
        return self.score("after")

    def _summarise(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        assert self.fitting is not None
        module, recorder = self.fitting.module, self.fitting.recorder
        summary = {
            "status": "finished",
            **self._facts(module),
            "before": {**_numbers(before), **recorder.first},
            "after": {**_numbers(after), **recorder.last},
            "scores": {"before": before, "after": after},
        }
        self._took("after")
        # A file of its own: the summary of a resumed run is the same, and its times are not.
        self.run.write_json("timing.json", {**module.timing.summary(), "stages": self.took})
        self.end(summary)

    def _export(self) -> None:
        """Write model/. The first process gathers what is shared out, one tensor after the other."""
        of = self.assembly
        weights = weights_to_gather(of.policy)
        if not self.main:
            if weights is not None:
                weights.follow()
            return
        try:
            name_base(of.policy, of.source, self.run, of.precision, self.core.trust_remote_code)
            export_model(of.policy, of.template.trained_tokenizer(), self.run.model_path, of.template.ends, weights)
        except ZooError as error:
            raise TrainingStopped(error.message, f"Free some space, then: zoo resume {self.run.path}") from error

    def _end_again(self, run: Run) -> Run:
        """The end of a run whose process was killed in it."""
        self.run = run
        with beating(run, lambda: (self._steps, self._steps)):
            return self.end(run.summary)

    def end(self, summary: dict[str, Any]) -> Run:
        """Call the listeners, which write the report, and remove what only a resume needs.

        A kill in here leaves a summary that says so, with which a resume begins here again.
        """
        summary.pop(ENDING, None)
        self.run.write_json("summary.json", {**summary, ENDING: True})
        start = base_named(str(self.core.model), self.core.out)
        write_card(self.run.model_path, [start], self.run, algorithm=type(self.algorithm))
        self._notify("run_end", metrics=last_metrics(self.run))
        tidy(self.run)
        self.run.write_json("summary.json", summary)
        self._tell_times()
        report.closing_panel(self.console, self.run, summary)
        return self.run

    def _took(self, stage: str) -> None:
        """Note the seconds since the stage before."""
        self.took[stage] = time.monotonic() - self.begun - sum(self.took.values())

    def _tell_times(self) -> None:
        """Say where the time of this process went."""
        if self.took:
            self._took("report")
            parts = ", ".join(f"{STAGES[stage]} {duration(seconds)}" for stage, seconds in self.took.items())
            self.say(f"Took {duration(sum(self.took.values()))}: {parts}.")

    def _facts(self, module: PostTraining) -> dict[str, Any]:
        rollouts = module.rollouts
        return {
            "algo": self.resolved.algo,
            "head": self.algorithm.head,
            "model": self.core.model,
            "data": self.core.data,
            "steps": module.steps_done,
            "skipped_steps": module.skipped_steps,
            **({"guards": module.guarding.guards.counts} if module.guarding.guards.counts else {}),
            **({"unrewarded_rollouts": rollouts.unrewarded.count} if isinstance(rollouts, Rollouts) else {}),
            "num_tokens": module.tokens_seen,
        }

    def _finish_hook(self) -> None:
        """Call the algorithm's `finish` on the weights that go into model/."""
        if self.plugins.hook.finish.get_hookimpls():
            of = self.assembly
            of.policy.to(of.device).eval()
            with torch.no_grad(), autocast(of.precision, of.device):
                records = of.data.train.records
                # Of a stream the first records stand for all.
                records = records.first if isinstance(records, StreamedRecords) else records
                self.plugins.hook.finish(records=records, models=of.models, config=self.resolved.algorithm)

    def _tell_stream(self) -> None:
        """Say and write down what became of the rows of a stream."""
        streaming = self.assembly.data.streaming
        if streaming is not None and self.main:
            for line in streaming.lines():
                self.say(line)
            self.run.write_json("data.json", {**self.assembly.data.facts, "train": streaming.facts()})

    # -- when something ends it early ----------------------------------------------------------------------------

    @property
    def _begun(self) -> bool:
        return self.resumed is not None or self._steps > 0

    @property
    def _steps(self) -> int:
        """Those done; of a resumed run that has not gone on yet, as far as its summary tells."""
        if self.fitting and self.fitting.module.steps_done:
            return self.fitting.module.steps_done
        return int(self.resumed.summary.get("steps", 0)) if self.resumed else 0

    def _progress(self) -> tuple[int, int]:
        """The last step, and the number of all steps."""
        return self._steps, self.assembly.total_steps

    def _forget_unless_begun(self) -> None:
        if self.created is not None and not self._begun:
            shutil.rmtree(self.created.path, ignore_errors=True)

    def _keep_reason(self, error: BaseException) -> None:
        """Write why the run has stopped into its summary, as far as the disk takes it."""
        begun = self.main and self.fitting and self._steps
        if begun and isinstance(error, Exception) and self.run.status not in ("finished", "failed"):
            told = error if isinstance(error, ZooError) else ZooError(describe_error(error))
            facts = {"status": "stopped", "steps": self._steps, "reason": told.message, "hint": told.hint}
            with contextlib.suppress(OSError):
                self.run.write_json("summary.json", facts)

    def _stopped(self, number: int, state: str) -> BaseException:
        """The error after a signal or the end of the run's time: its message, and the exit status of a scheduler."""
        if not self.main:
            return SystemExit(exit_status(number))
        steps, name = self._steps, signal_name(number)
        stopped = TrainingStopped(f"Stopped by {name} before the first step{NO_RUN}.", "Start again.")
        if self._begun:
            if self.fitting and steps and self.run.status != "finished":
                self.run.write_json("summary.json", {"status": "stopped", "steps": steps})
            begun = self.resumed or self.run
            stopped = TrainingStopped(
                f"Stopped by {name} after step {steps}.{state}", f"Continue with: zoo resume {begun.path}"
            )
        stopped.exit_status = exit_status(number)
        return stopped

    def _failed(self, module: PostTraining) -> TrainingFailed:
        """The error where every step was skipped: the weights have not changed, so none are written."""
        steps = "The only step was" if module.steps_done == 1 else f"All {module.steps_done} steps were"
        why, hint = module.guarding.guards.last
        why = (
            why or "there was nothing to learn: no trained token, or ties, labels or rewards that are equal or missing"
        )
        look = f"{self.run.path}/samples.jsonl" if self.assembly.online else f"`zoo data {self.core.data}`"
        failed = TrainingFailed(
            f"The run {self.run.name} has failed. {steps} skipped, because {why}.",
            f"Look at {'the rewards in' if self.assembly.online else 'the rows in'} {look}. {hint}".strip(),
        )
        if self.main:
            self._write_failure(failed)
            tidy(self.run)
        return failed

    def _refuse_broken(self, module: PostTraining) -> None:
        """Raises TrainingFailed: there are no weights to write."""
        try:
            module.guarding.refuse_broken()
        except TrainingFailed as failed:
            self._keep_failed(failed)
            raise

    def _keep_failed(self, failed: TrainingFailed) -> None:
        """The summary of a run that cannot go on. Its checkpoints stay: with other options it can."""
        if self.main:
            if (last := newest(self.run.checkpoints)) is not None:
                failed.hint = f"{failed.hint} The last checkpoint is {last}."
            self._write_failure(failed, **{OPTIONS: options_digest(self.run)})

    def _write_failure(self, failed: TrainingFailed, **more: str) -> None:
        assert self.fitting is not None
        module = self.fitting.module
        summary = {"status": "failed", **self._facts(module), "reason": failed.message, "hint": failed.hint}
        self.run.write_json("timing.json", module.timing.summary())
        self.run.write_json("summary.json", {**summary, **more})

    def _explain(self, error: OSError) -> BaseException:
        """A full disk and a missing run folder are the user's to repair; any other error is a fault."""
        run = getattr(self, "run", None)
        inside = run is not None and str(error.filename or "").startswith(str(run.path))
        if run is None or not (inside or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            return error
        if not run.path.is_dir():
            gone = f"The run folder {run.path} is gone: it was moved or removed, or its disk is no longer there."
            return TrainingStopped(gone, f"Put it back, then: zoo resume {run.path}. Without it, start again.")
        then = f", then: zoo resume {run.path}" if self._begun else " and start again."
        return TrainingStopped(
            f"{error.filename or run.path} cannot be written: {error.strerror}.", f"Free some space or rights{then}"
        )


def last_metrics(run: Run) -> dict[str, Any]:
    """The numbers of the last step, as in metrics.jsonl, without its place."""
    row: dict[str, Any] = next((row for row in reversed(run.log_history) if "loss" in row), {})
    return {name: value for name, value in row.items() if name not in ("step", "epoch")}


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items()}
