"""The stages of a run: load, plan, open the folder, score, train, write the model, score again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console

from zoo import registry
from zoo.config import AUTO, Resolved
from zoo.data.loader import StepLoader
from zoo.data.template import ChatTemplate
from zoo.errors import PluginError, TrainingStopped, ZooError
from zoo.evals import Subject
from zoo.evals.chosen import choose
from zoo.models.loading import load_tokenizer
from zoo.models.precision import autocast, choose_precision, rounding_tolerance
from zoo.models.reference_cache import answer_key
from zoo.models.roles import answers_in
from zoo.models.scalar import choose_padding, is_scorer, set_unit, token_scores
from zoo.models.scoring import choose_layout, score_answers
from zoo.runs import Run, check_name, create_run
from zoo.training import online, report, setup
from zoo.training.callbacks import Recorder
from zoo.training.checkpoints import FolderCheckpoints, newest_good
from zoo.training.checks import check_decay, check_names, names_in
from zoo.training.experience import Experience
from zoo.training.listeners import Listeners, spoken_warnings
from zoo.training.module import PostTraining, out_of_memory
from zoo.training.progress import Watch, counter
from zoo.training.resuming import check_data, compare_environment
from zoo.training.rollouts import Rollouts
from zoo.training.signals import Signals, Stopped, signal_name
from zoo.training.sums import leave_processes
from zoo.types import Batch

RUN_FOLDER = "ZOO_RUN_FOLDER"
"""Environment variable by which the first process tells the ones that it starts which run they belong to."""


class Execution:
    """The stages of one run, in the order of the methods; what one stage makes the next ones use."""

    def __init__(
        self,
        resolved: Resolved,
        algorithm: Any,
        console: Console,
        resumed: Run | None = None,
        data_change: bool = False,
        command: str = "",
    ):
        self.command = command
        self.resolved, self.core, self.algorithm = resolved, resolved.core, algorithm
        self.console, self.resumed, self.data_change = console, resumed, data_change
        self.rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
        self.main = self.rank == 0
        self.processes = self.core.devices * self.core.num_nodes
        self.created: Run | None = None
        self.module: PostTraining | None = None
        self.plugins = registry.manager(algorithm)
        self.listeners = Listeners(self.plugins, algorithm, self.say)
        for broken in registry.plugin_modules()[1]:
            self.say(f"Plugin '{broken.name}' of {broken.package} {broken.version} is left out: {broken.error}")

    def say(self, text: str) -> None:
        if self.main:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def go(self) -> Run:
        """All stages. A run that fails before its first step leaves no folder."""
        with contextlib.ExitStack() as held, Signals() as self.signals:
            try:
                return self._stages(held)
            except Stopped as stopped:
                self._forget_unless_begun()
                raise self._stopped(stopped.number, "") from None
            except OSError as error:
                self._forget_unless_begun()
                raise self._explain(error) from error
            except BaseException:
                self._forget_unless_begun()
                raise

    def _stages(self, held: contextlib.ExitStack) -> Run:
        if self.resumed and self.main:
            held.enter_context(self.resumed.alone())
        elif self.main:
            check_name(self.core.out, self.core.name)
        held.enter_context(spoken_warnings(self.algorithm, self.say))
        setup.seed_everything(self.core.seed)
        self.load()
        self.plan()
        if self.rollouts is not None:
            held.callback(self.rollouts.close)
        self.open_run()
        if self.created:
            held.enter_context(self.created.alone())
        # A run killed while it was being scored has no before.json yet.
        before = (self.resumed.read_json("before.json") if self.resumed else {}) or self.score_before()
        stopped = self.fit()
        leave_processes()
        if not self.main:
            return self.run
        if stopped:
            raise self._stopped(stopped, " The checkpoint is complete.")
        return self.finish(before)

    # -- stages --------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Model, template and data."""
        core = self.core
        self.accelerator = setup.choose_accelerator(core.accelerator)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cuda", local) if self.accelerator == "cuda" else torch.device(self.accelerator)
        self.precision, reason = choose_precision(core.precision, self.accelerator)
        self.evals = choose(self._scores(), registry.contributions(self.plugins, "evals"), self.algorithm.head)
        check_names(names_in(core.loggers), report.LOGGERS, "logger")
        self._name_models()
        self.tokenizer = load_tokenizer(self.source, core.trust_remote_code)
        check_decay(core, self.algorithm)
        self.template = ChatTemplate(self.tokenizer, core.template)
        self.data = setup.load_data(core, self.algorithm.kinds(), self.template, self.plugins, self.say)
        self.say(self.template.preflight(self.data.train.records))
        if self.resumed is not None:
            check_data(self.resumed, self.data.facts, self.data_change)
            compare_environment(self.resumed, self.say)
        self.policy = setup.load_policy(core, self.source, self.precision, self.algorithm.head)
        self.template.eos_ids |= setup.ending_ids(self.policy)
        if is_scorer(self.policy):
            set_unit(self.policy, "step" if self.data.train.kind == "stepwise" else "answer")
            if not choose_padding(self.policy, self.tokenizer, self.template.eos_ids):
                self.say("The tokenizer pads with the end of the turn: score with zoo, not with transformers alone.")
        self.say(f"Precision {self.precision}: {reason}.")

    def _name_models(self) -> None:
        """The run that `last` means becomes its path: by the next start `last` is another one."""
        core, folder = self.core, os.environ.get(RUN_FOLDER)
        if not self.main and folder and not self.resumed:
            began = Run(Path(folder)).config
            core.model, core.reference = began["model"], began["reference"]
        self.source = setup.resolve_start(core.model, core.out, self.say)
        core.model = self.source.name
        if core.reference is not None:
            core.reference = setup.resolve_start(core.reference, core.out, self.say).name

    def plan(self) -> None:
        """Row layout, roles, the records as the algorithm prepares them, and the steps."""
        core = self.core
        device = next(self.policy.parameters()).device
        layout, note = choose_layout(
            self.policy, [answer.to(device) for answer in setup.sample_answers(self.data.train.records)], core.layout,
            rounding_tolerance(self.precision), longest=core.max_length + core.max_new_tokens * self.algorithm.online(),
            score=token_scores if is_scorer(self.policy) else score_answers,
        )  # fmt: skip
        if note:
            self.say(note)
        roles = self.algorithm.roles(self.resolved.algorithm)
        models = setup.make_models(
            self.resolved, roles, self.policy, self.source, self.template, layout, self.precision, self.say
        )
        if not is_scorer(self.policy):
            online.give_pen(models, core, self.template, self.precision, self.device, self.plugins)
        records = self._prepared(models)
        self.rollouts = self._make_rollouts(models, records) if self.algorithm.online() else None
        self.loader = self._make_loader(records)
        micro_tokens = setup.choose_micro_tokens(core, self.device, self.policy)
        critic = models.built("critic").head if "critic" in models else None
        self.module = PostTraining(
            self.policy, models, self.plugins.hook, self.algorithm, self.resolved.algorithm, core,
            total_steps=len(self.loader), micro_tokens=micro_tokens, critic=critic,
        )  # fmt: skip
        trained = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        self.say(
            f"Training {self.resolved.algo}: {len(records)} records, {len(self.loader)} steps of {core.batch_size} "
            f"(micro-batches of {micro_tokens} tokens, {layout} rows), {trained / 1e6:.1f} M trained weights."
        )
        if isinstance(self.loader, Experience):
            each = self.loader.each
            self.say(
                f"A rollout has {online.prompts_in_rollout(core)} prompts with {core.answers_per_prompt} answers each "
                f"and serves {each} step{'s' if each > 1 else ''}."
            )

    def _make_rollouts(self, models: Any, records: list[dict[str, Any]]) -> Rollouts:
        core, held_out = self.core, self.data.held_out
        for role in ("policy", "reference"):
            if role in models:
                models.built(role).temperature = core.temperature or 1.0
        if "reference" in models:
            # What the policy writes is never seen again.
            models.built("reference").cache = None
        return Rollouts(
            self.plugins.hook, self.algorithm, self.resolved.algorithm, models, models.built("policy").writer,
            online.make_rewards(core, self.plugins, self.device, self.say), records,
            held_out.records[: core.eval_prompts] if held_out else [], self.precision, self.say,
        )  # fmt: skip

    def _make_loader(self, records: list[dict[str, Any]]) -> StepLoader | Experience:
        core = self.core
        if self.rollouts is not None:
            return online.make_experience(records, self.rollouts, core, self.rank, self.processes)
        collate = setup.make_collate(self.plugins.hook, self.tokenizer, self.resolved.algorithm)
        return setup.make_loader(core, self.data, records, collate, self.rank, self.processes)

    def _prepared(self, models: Any) -> list[dict[str, Any]]:
        """The records to train on: as encoded, or what the algorithm's `prepare` makes of them."""
        records = self.data.train.records
        if not self.plugins.hook.prepare.get_hookimpls():
            return records
        self.policy.to(self.device)
        with autocast(self.precision, self.device), self._preparing(models):
            prepared = self.plugins.hook.prepare(records=records, models=models, config=self.resolved.algorithm)
        if not isinstance(prepared, list) or not prepared:
            raise PluginError(
                f"{type(self.algorithm).__name__}.prepare returned {type(prepared).__name__} with nothing to train on.",
                "Return the list of records to train on.",
            )
        if prepared is not records:
            self.say(f"Prepared: {len(records)} records became {len(prepared)}.")
        return prepared

    def _preparing(self, models: Any) -> contextlib.AbstractContextManager[None]:
        """What the policy writes in `prepare` is kept for a resume."""
        writer = getattr(models.built("policy"), "writer", None)
        if writer is None:
            return contextlib.nullcontext()
        writer.progress = counter(self.console, "Preparing: answers") if self.main else None
        key = (self.precision, self.core.engine)
        return writer.preparing(lambda: online.kept_answers(self.policy, key, self.template, self.say))

    def open_run(self) -> None:
        """The run folder."""
        if self.resumed is not None:
            self.run = self.resumed
        elif self.main:
            algo = self.resolved.algo
            short = Path(algo.split(":")[0]).stem if ".py" in algo else algo
            # The name belongs to this folder: run.yaml must run again beside it.
            config = {**self.resolved.as_dict(), "name": None}
            default = f"{short}-{self.source.short_name}"
            self.run = create_run(
                self.core.out, self.core.name, default, config, self.command, data=self.data.facts,
                origins=self.resolved.origin,
            )  # fmt: skip
            self.created = self.run
        else:
            self.run = Run(Path(self.core.out))

    def score_before(self) -> dict[str, Any]:
        scores = self.score("before")
        if self.main:
            self.run.write_json("before.json", scores)
        return scores

    def score(self, when: str) -> dict[str, Any]:
        """The evaluations of this run, as JSON; only the first process makes them."""
        found: dict[str, Any] = {}
        if not self.main:
            return found
        self.policy.to(self.device)
        subject = Subject(
            self.policy, self.tokenizer, self.template, self.precision, start=self._start, out=self.core.out,
            say=self.say,
        )  # fmt: skip
        for one in self.evals:
            score = one.run(replace(subject, progress=counter(self.console, f"Scoring {one.label} ({when})")))
            found[one.label] = score.as_json()
            report.write_samples(self.run, when, score)
            self.say(f"{one.label} {when}: {score.text()}")
        return found

    def _start(self) -> Any:
        """The weights that training started from, for evaluations that compare with them."""
        return setup.frozen(self.core, self.source, self.policy, self.precision)

    def _scores(self) -> list[str]:
        return [] if self.core.score == AUTO else names_in(self.core.score)

    def fit(self) -> int:
        """Train; returns the number of the signal that stopped it, or 0."""
        module = self.module
        assert module is not None
        with Watch(self.console, len(self.loader), show=self.main) as watch:
            self.recorder = Recorder(
                self.run, self.core, self.loader, self._validation(), self._tell, watch.update, self.signals
            )
            self.signals.on_wait = lambda: watch.say(
                "Stopping after this step, with a checkpoint (again to stop at once)."
            )
            module.before_training = lambda: self._before_training(watch)
            module.say = watch.say
            if self.rollouts is not None:
                self.rollouts.run, self.rollouts.say, self.rollouts.tell = self.run, watch.say, self._tell
                self.rollouts.micro_tokens = lambda: module.micro_tokens
                module.rollouts, self.rollouts.timing = self.rollouts, module.timing
            trainer = self._trainer()
            checkpoint = newest_good(self.run.checkpoints, self.say) if self.resumed else None
            if self.resumed:
                self.say(f"Resuming from {checkpoint.name}." if checkpoint else "No checkpoint yet: starting again.")
            if self.main:
                os.environ[RUN_FOLDER] = str(self.run.path)
            try:
                trainer.fit(module, self.loader, ckpt_path=checkpoint, weights_only=True)
            except BaseException:
                # The others would wait for this process at their next exchange.
                for process in getattr(trainer.strategy.launcher, "procs", ()):
                    process.kill()
                raise
        return self.signals.number or 0

    def _validation(self) -> Callable[[], dict[str, float]] | None:
        """A function that gives the numbers of held-out data, or None."""
        module, rollouts = self.module, self.rollouts
        assert module is not None
        if rollouts is not None:
            return (lambda: rollouts.validate(module.steps_done)) if rollouts.held_out else None
        batches = self._held_out_batches()
        return (lambda: module.validate(batches())) if batches else None

    def _held_out_batches(self) -> Callable[[], list[Batch]] | None:
        """A function that gives this process's held-out batches, or None."""
        if self.data.held_out is None or not isinstance(self.loader, StepLoader):
            return None
        held_out = self.data.held_out.records
        if len(held_out) < self.processes:
            self.say(f"No validation: {len(held_out)} held-out records are too few for {self.processes} processes.")
            return None
        size = max(self.core.batch_size, self.processes)
        batches = StepLoader(
            held_out, self.loader.collate, batch_size=size, shuffle=False, rank=self.rank, processes=self.processes
        )
        return lambda: [batches.batch(step) for step in range(len(batches))]

    def _before_training(self, watch: Watch) -> None:
        """Score what the reference will be asked for, with the policy itself while it still is the reference."""
        module = self.module
        assert module is not None
        if "reference" in module.models and module.models.built("reference").cache is not None:
            assert isinstance(self.loader, StepLoader)
            batches = [self.loader.batch(step) for step in range(len(self.loader))]
            held_out = self._held_out_batches()
            batches += held_out() if held_out else []
            answers = [answer.to(module.device) for batch in batches for answer in answers_in(batch)]
            self._warm(module, answers, watch)
        self._tell("run_start", config=self.resolved.as_dict())

    def _warm(self, module: PostTraining, answers: list[Any], watch: Watch) -> None:
        reference = module.models.built("reference")
        if module.steps_done == 0 and self.core.reference is None:
            reference.stand_in(self.policy)
        computed = 0
        while True:
            done = 0
            try:
                # In the arithmetic of the steps, so that policy and reference start out equal.
                with module.trainer.precision_plugin.forward_context():
                    for done, total in reference.warm(answers, module.micro_tokens):
                        watch.count("reference log-probs", done, total)
                computed += done
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                computed += done
                module.halve(error)
        found = len({answer_key(answer) for answer in answers}) - computed
        watch.say(f"Reference log-probs: {found:,} found in the cache, {computed:,} computed.")
        reference.release()

    def _tell(self, event: str, **facts: Any) -> None:
        if self.main:
            self.listeners.tell(event, run=self.run, **facts)

    def _trainer(self) -> lightning.Trainer:
        core = self.core
        return lightning.Trainer(
            accelerator=core.accelerator,
            devices=core.devices,
            num_nodes=core.num_nodes,
            strategy="ddp" if core.strategy == "auto" and self.processes > 1 else core.strategy,
            precision=self.precision,  # type: ignore[arg-type]
            max_epochs=1,
            logger=report.make_loggers(names_in(core.loggers), self.run),
            callbacks=[self.recorder],
            plugins=[FolderCheckpoints()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(self.run.path),
        )

    def finish(self, before: dict[str, Any]) -> Run:
        """Write the model, score it, sum up."""
        module = self.module
        assert module is not None
        best = self.run.path / "best.safetensors"
        if best.is_file():
            from safetensors.torch import load_file

            self.policy.load_state_dict(load_file(best), strict=False)
        self._last_word()
        try:
            setup.name_base(self.policy, self.source, self.run, self.precision, self.core.trust_remote_code)
            setup.export_model(self.policy, self.template.trained_tokenizer(), self.run.model_path)
        except ZooError as error:
            raise TrainingStopped(error.message, f"Free some space, then: zoo resume {self.run.path}") from error
        best.unlink(missing_ok=True)
        after = self.score("after")
        summary = {
            "status": "finished",
            "algo": self.resolved.algo,
            "head": self.algorithm.head,
            "model": self.core.model,
            "data": self.core.data,
            "steps": module.steps_done,
            "skipped_steps": module.skipped_steps,
            **({"unrewarded_rollouts": self.rollouts.unrewarded} if self.rollouts is not None else {}),
            "num_tokens": module.tokens_seen,
            "before": {**_numbers(before), **self.recorder.first},
            "after": {**_numbers(after), **self.recorder.last},
            "scores": {"before": before, "after": after},
        }
        # Apart from the summary, which is the same for a run that was resumed; the clock is not.
        self.run.write_json("timing.json", module.timing.summary())
        self.run.write_json("summary.json", summary)
        if not self.core.keep_checkpoints:
            shutil.rmtree(self.run.checkpoints, ignore_errors=True)
        self._tell("run_end", metrics=module.step_metrics)
        report.closing_panel(self.console, self.run, summary)
        return self.run

    def _last_word(self) -> None:
        """The algorithm's `finish`, on the weights that go into model/."""
        if self.plugins.hook.finish.get_hookimpls():
            assert self.module is not None
            self.policy.to(self.device).eval()
            with torch.no_grad(), autocast(self.precision, self.device):
                self.plugins.hook.finish(
                    records=self.data.train.records, models=self.module.models, config=self.resolved.algorithm
                )

    # -- when something ends it early ----------------------------------------------------------------------------

    @property
    def _begun(self) -> bool:
        return self.resumed is not None or (self.module is not None and self.module.steps_done > 0)

    def _forget_unless_begun(self) -> None:
        if self.created is not None and not self._begun:
            shutil.rmtree(self.created.path, ignore_errors=True)

    def _stopped(self, number: int, state: str) -> BaseException:
        """After a signal: what to say, and the exit status that a shell expects."""
        if not self.main:
            return SystemExit(128 + number)
        steps = self.module.steps_done if self.module else 0
        name = signal_name(number)
        stopped = TrainingStopped(f"Stopped by {name} before the first step; nothing was kept.", "Start again.")
        if self._begun:
            if steps:
                self.run.write_json("summary.json", {"status": "stopped", "steps": steps})
            path = self.run.path if steps else self.resumed.path  # type: ignore[union-attr]
            stopped = TrainingStopped(f"Stopped by {name} after step {steps}.{state}", f"Go on with: zoo resume {path}")
        stopped.exit_status = 128 + number
        return stopped

    def _explain(self, error: OSError) -> BaseException:
        """A full disk or a run folder that is gone is for a person to mend; anything else is a fault."""
        run = getattr(self, "run", None)
        inside = run is not None and str(error.filename or "").startswith(str(run.path))
        if run is None or not (inside or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            return error
        then = f", then: zoo resume {run.path}" if self._begun else " and start again."
        return TrainingStopped(
            f"{error.filename or run.path} cannot be written: {error.strerror}.", f"Free some space or rights{then}"
        )


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items()}
