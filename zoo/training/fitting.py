"""The optimizer steps of a run: Lightning's Trainer, validation, records, and the reference's scores before them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning

from zoo.data.loader import Loader, StepLoader
from zoo.errors import TrainingStopped, ZooError
from zoo.libraries.connected import Sharded
from zoo.libraries.meeting import Meeting
from zoo.libraries.peers import Peers, how_it_ended, is_lost_connection
from zoo.libraries.precision import trainer_options
from zoo.libraries.sharding import whole_shapes
from zoo.libraries.trainer import forget_optimizers, kill_others, started_by_this, step_arithmetic
from zoo.models.reference import Reference
from zoo.models.reference_cache import answer_key
from zoo.models.roles import Frozen
from zoo.numbers import amount, seconds_in
from zoo.options.checks import names_in
from zoo.options.roles import POLICY
from zoo.processes import from_all
from zoo.runs import Run
from zoo.training.assembly import RUN_FOLDER, Assembly
from zoo.training.online import validation as online_validation
from zoo.training.record import report
from zoo.training.record.callbacks import Recorder
from zoo.training.record.checkpoints import Expected, FolderCheckpoints, newest, newest_good, read_rest, step_of
from zoo.training.record.offending import Keeper
from zoo.training.record.progress import Watch
from zoo.training.record.records import cut, forget, lost
from zoo.training.record.signals import Deadline, Signals
from zoo.training.record.trackers import Trackers
from zoo.training.step import token_losses
from zoo.training.step.module import STATE, PostTraining, out_of_memory, shapes_of
from zoo.training.step.timing import Timing
from zoo.training.step.validation import validate
from zoo.values.answers import answers_in
from zoo.values.types import Answer, Batch


class Fitting:
    """Trains what the assembly made into an open run folder.

    notify: called with (event, **facts) for the listeners. begun: when the run began, on the monotonic clock.
    """

    def __init__(self, assembly: Assembly, run: Run, signals: Signals, notify: Callable[..., None], begun: float):
        self.assembly, self.core, self.run, self.notify = assembly, assembly.core, run, notify
        timing = Timing()
        self.rollouts = assembly.make_rollouts(run, timing, lambda: self.module.micro_tokens, notify)
        self.loader = assembly.make_loader(self.rollouts)
        self.watch = Watch(assembly.console, len(self.loader), show=assembly.main)
        self.checkpoints = FolderCheckpoints(self.watch.say, in_parts=assembly.connected is not None)
        keeper = Keeper(run, assembly.template, self.loader, self.core.save_every, self.checkpoints, assembly.say)
        self.module = assembly.make_module(self.rollouts, timing, self._before_training, keeper)
        self.trackers = Trackers(names_in(self.core.loggers) if assembly.main else [], run, self.watch.say)
        limit = None if self.core.max_time is None else seconds_in(self.core.max_time)
        self.recorder = Recorder(
            run, self.core, self.loader, self._validation(), notify, self.watch.update, signals, self._validations(),
            Deadline(begun, limit), self.checkpoints, self.trackers,
        )  # fmt: skip
        self.signals = signals
        self.connected = assembly.connected
        self.peers = Peers() if self.connected is None else self.connected.peers
        self.trainer: lightning.Trainer | None = None
        self.checkpoint: Path | None = None
        """What a resumed run goes on from; none if it begins again."""

    def restore(self) -> None:
        """Find the checkpoint of a resumed run, and bring the files of the run to where it was taken.

        Raises ZooError where rows are lost, or no checkpoint is usable, unless that was accepted.
        """
        beginning, run = self.assembly.beginning, self.run
        self.checkpoint = self._newest_good()
        if beginning is None:
            return
        step, marks = 0, beginning.marks
        # What a checkpoint of no step knows is made again.
        if self.checkpoint is not None and step_of(self.checkpoint):
            step, marks = step_of(self.checkpoint), read_rest(self.checkpoint, mmap=True)["records"]
        elif self.checkpoint is None and (unusable := newest(run.checkpoints)) is not None:
            beginning.judge({"checkpoint": {unusable.name: ("usable", "not")}})
        if marks is None:
            forget(run)
        else:
            if missing := lost(run, marks):
                beginning.judge({"records": missing})
            cut(run, marks, step)
        if "data" in beginning.accepted:
            run.write_json("data.json", self.assembly.data.facts)
        beginning.keep(step)

    def _newest_good(self) -> Path | None:
        """The checkpoint to go on from. Processes that are connected read it through once, not each of them."""
        good = None
        if self.connected is None or self.assembly.main:
            good = newest_good(self.run.checkpoints, self.assembly.say, self._expected())
        if self.connected is None:
            return good
        place = from_all("" if good is None else str(good))[0]
        return Path(place) if place else None

    def _expected(self) -> Expected:
        """What a checkpoint of this run holds."""
        module = self.module
        trained = {f"{role}.{name}": p for role, of in module.trained().items() for name, p in of.items()}
        weights = dict(zip(trained, whole_shapes(trained.values()), strict=True))
        optimized = shapes_of(module.make_optimizer())
        parts = (*STATE, "loops", "callbacks", "lr_schedulers", "records")
        return Expected(weights, module.optimizer.name, optimized, parts)

    def go(self) -> int:
        """Train; returns the number of the signal that stopped it, or 0."""
        module, assembly = self.module, self.assembly
        with self.watch as watch:
            self.trainer = trainer = self._trainer(watch.say if assembly.main else print)
            checkpoint = self.checkpoint
            if assembly.resumed:
                assembly.say(f"Resuming from {checkpoint.name}." if checkpoint else "No checkpoint: starting again.")
            with self._environment_of_others():
                try:
                    trainer.fit(module, self.loader, ckpt_path=checkpoint)
                    module.take_average()
                    # What follows needs memory of its own.
                    forget_optimizers(trainer)
                    if self.connected is None:
                        self.peers.part()
                except BaseException as error:
                    ended = self._ended_with_others(trainer, error)
                    self._end(trainer)
                    if ended is not None:
                        raise ended from error
                    raise
                finally:
                    self.trackers.close()
        return self.signals.number or 0

    def _end(self, trainer: lightning.Trainer) -> None:
        """Without this the other processes would wait for this one; a checkpoint in flight is completed."""
        self.peers.leave()
        kill_others(trainer)
        self.checkpoints.lose_others()
        with contextlib.suppress(Exception):
            self.checkpoints.settle()

    def close(self) -> None:
        """The end in any case, of processes that connect for the steps."""
        if self.connected is None and self.trainer is not None:
            self.peers.close(started_by_this(self.trainer))

    def _ended_with_others(self, trainer: lightning.Trainer, error: BaseException) -> BaseException | None:
        """What to raise where an exchange has failed because another process is gone; else None."""
        if self.assembly.processes == 1 or isinstance(error, ZooError) or not is_lost_connection(error):
            return None
        gone = self.peers.gone_soon()
        return self._others_gone(trainer, gone) if self.peers.speaks(gone) else SystemExit(1)

    def _others_gone(self, trainer: lightning.Trainer, gone: list[int]) -> TrainingStopped:
        of, place, children = f"of {self.assembly.processes}", self.assembly.place, started_by_this(trainer)
        ended = [f"process {rank} {of} has ended{how_it_ended(place, children, rank)}" for rank in gone]
        ended = ended or [f"a process {of} on another machine has ended, or cannot be reached"]
        said = " and ".join(ended)
        self.checkpoints.lose_others()
        with contextlib.suppress(Exception):
            self.checkpoints.settle()
        last = newest(self.run.checkpoints)
        kept = f"The last complete checkpoint is {last.name}." if last else "There is no checkpoint yet."
        why = "If it said nothing above, it was killed, such as for its memory."
        return TrainingStopped(
            f"{said[0].upper()}{said[1:]}, so the others end too. {kept}",
            f"{why} Continue with: zoo resume {self.run.path}",
        )

    def _stop_now(self, trainer: lightning.Trainer, gone: list[int]) -> None:
        """End this process, which may wait for the others inside of a library."""
        if self.peers.speaks(gone):
            error = self._others_gone(trainer, gone)
            self.assembly.console.say(f"{error.message}\n{error.hint}", style="red")
        self._end(trainer)
        os._exit(1)

    @contextlib.contextmanager
    def _environment_of_others(self) -> Iterator[None]:
        """Name the run to the processes that Lightning starts; then the environment is as it was."""
        before = dict(os.environ)
        if self.assembly.main:
            os.environ[RUN_FOLDER] = str(self.run.path)
        try:
            yield
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)

    def _agree(self) -> None:
        """Raises ZooError unless all processes are here and make the same run."""
        assembly = self.assembly
        data = {part: facts["fingerprint"] for part, facts in assembly.data.facts.items()}
        config = {**assembly.resolved.as_dict(), "name": None, "out": None}
        mine = {
            "their number": assembly.processes, "the configuration": config, "the data": data,
            "the number of steps": len(self.loader),
        }  # fmt: skip
        if self.connected is None:
            self.peers.meet(lambda gone: self._stop_now(self.module.trainer, gone))
        else:
            self.connected.lost = lambda gone: self._stop_now(self.module.trainer, gone)
        everyone = from_all((assembly.rank, mine, str(self.run.path)))
        ranks = [rank for rank, _, _ in everyone]
        wrong = [what for what in mine if any(theirs[what] != mine[what] for _, theirs, _ in everyone)]
        if ranks != list(range(assembly.processes)):
            wrong.insert(0, f"which is which (the ranks are {', '.join(map(str, ranks))} of {assembly.processes})")
        if wrong:
            raise ZooError(
                f"The processes of this run do not agree on {' and '.join(wrong)}.",
                "Start all of them with the same command, in the same folder, on the same data; name a run instead of "
                "`last`.",
            )
        # Only the first process has opened it.
        self.run = Run(Path(everyone[0][2]))

    def _validation(self) -> Callable[[], dict[str, float]] | None:
        """A function that computes the held-out metrics, or None."""
        module, rollouts = self.module, self.rollouts
        if rollouts is not None:
            prompts = self.assembly.held_out
            return (lambda: online_validation.validate(rollouts, prompts, module.steps_done)) if prompts else None
        batches = self._held_out_batches()
        return (lambda: self._validate(batches())) if batches else None

    def _validate(self, batches: list[Batch]) -> dict[str, float]:
        step = self.module.steps_done
        with self._shared_scores():
            values, cases, losses = validate(self.module, batches, self.assembly.data.held_out_parts)
        if self.assembly.main:
            token_losses.keep(self.run, self.assembly.template, step, losses)
            report.write_cases(self.run, step, cases)
        return values

    def _validations(self) -> int:
        """How many a run makes where eval_every is not given: fewer where each is a larger share of the run's work."""
        held_out, loader = self.assembly.held_out, self.loader
        if not held_out or not isinstance(loader, Loader) or self._judges:
            return 4
        # Fields that `measure` reads cost one more pass.
        share = len(held_out) * (1 + len(type(self.assembly.algorithm).measured)) / loader.examples
        return 4 if share <= 1 / 8 else 2 if share <= 1 / 4 else 1

    @property
    def _judges(self) -> bool:
        """Whether something depends on which validation is the best."""
        return bool(self.core.keep_best or self.core.keep_top or self.core.patience)

    def _held_out_batches(self) -> Callable[[], list[Batch]] | None:
        """A function that gives this process's held-out batches, or None."""
        rank, processes = self.assembly.share
        if self.assembly.data.held_out is None or not isinstance(self.loader, Loader):
            return None
        held_out = self.assembly.held_out
        if len(held_out) < processes:
            self.assembly.say(
                f"No validation: {amount(len(held_out), 'held-out record')} cannot feed {processes} processes."
            )
            return None
        size = max(self.core.batch_size, processes)
        batches = StepLoader(
            held_out, self.loader.collate, batch_size=size, shuffle=False, rank=rank, processes=processes
        )
        return lambda: [batches.batch(step) for step in range(len(batches))]

    @contextlib.contextmanager
    def _shared_scores(self) -> Iterator[None]:
        """Before the first step the policy is each frozen role that no model was named for: one pass scores for all."""
        frozen = {} if self.module.steps_done else self.module.models.frozen()
        if not frozen:
            yield
            return
        copies = [
            role for name, role in frozen.items() if isinstance(role, Reference) and self._starts_as_the_policy(name)
        ]  # fmt: skip
        for role in copies:
            role.stand_in(self.assembly.policy)
        try:
            with self.module.models.built(POLICY).equal_to(copies):
                yield
        finally:
            for held in frozen.values():
                if held in copies or held.cache is not None:
                    held.release()

    def _starts_as_the_policy(self, name: str) -> bool:
        resolved = self.assembly.resolved
        return resolved.value(resolved.roles[name].option) is None

    def _before_training(self) -> None:
        """Compute frozen scores of the training data; the first validation computes those of held-out data."""
        module, roles = self.module, self.assembly.resolved.roles
        cached = {name: role for name, role in module.models.frozen().items() if role.cache is not None}
        if ahead := {name: role for name, role in cached.items() if roles[name].ahead}:
            assert isinstance(self.loader, StepLoader)
            batches = [self.loader.batch(step) for step in range(len(self.loader))]
            answers = [answer.to(module.device) for batch in batches for answer in answers_in(batch)]
            with self._shared_scores():
                for name, role in ahead.items():
                    self._warm(module, name, role, answers)
        self.notify("run_start", config=self.assembly.resolved.as_dict())

    def _warm(self, module: PostTraining, name: str, role: Frozen, answers: list[Answer]) -> None:
        computed = 0
        while True:
            done = 0
            try:
                # In the precision of the steps, so that policy and reference are equal at the start.
                with step_arithmetic(module.trainer):
                    for done, total in role.warm(answers, module.micro_tokens):
                        self.watch.count(f"{name} log-probs", done, total)
                computed += done
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                computed += done
                module.halve(error)
        cached = len({answer_key(answer) for answer in answers}) - computed
        self.watch.say(f"{name.capitalize()} log-probs: {cached:,} found in the cache, {computed:,} computed.")
        role.release()

    def _trainer(self, say: Callable[[str], None]) -> lightning.Trainer:
        core = self.core
        options = trainer_options(self.assembly.precision)
        options["plugins"] += [self.checkpoints, self.assembly.place.environment]
        return lightning.Trainer(
            **options,
            accelerator=core.accelerator,
            devices=core.devices,
            num_nodes=core.num_nodes,
            strategy=self._strategy(say),
            max_epochs=1,
            logger=False,
            callbacks=[self.recorder],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(self.run.path),
        )

    def _strategy(self, say: Callable[[str], None]) -> str | Meeting | Sharded:
        if self.connected is not None:
            return Sharded(self.connected, self._agree, self.core.offload)
        alone = self.assembly.processes == 1 and self.core.strategy == "auto"
        return "auto" if alone else Meeting(self.assembly.place, self.peers, say, self._agree)
