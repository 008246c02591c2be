"""What happens around the steps: metrics are written, validation runs, checkpoints are saved, signals are heeded.

One callback does these in one fixed order after every step, so that a checkpoint always holds what was recorded.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lightning

from zoo.errors import TrainingStopped
from zoo.guards.watch import COUNTED
from zoo.libraries.sharding import Gathering
from zoo.libraries.streamed import order_of, write
from zoo.libraries.trainer import Callback, largest_of_all, same_everywhere
from zoo.processes import begin_exchange
from zoo.runs import BEST, Run
from zoo.training.record.checkpoints import FolderCheckpoints, KeepRule, best_steps, step_of
from zoo.training.record.records import Records
from zoo.training.record.signals import TIME_UP, Deadline, Signals
from zoo.training.record.trackers import Trackers

RISING = {"accuracy", "accuracies", "reward", "rewards", "gold", "grade", "score", "margins", "margin"}
FALLING = {"loss", "nll", "kl", "brier", "perplexity", "cut", "rejected", "undesirable"}
"""Words in the name of a best_metric which say that it should rise, or fall."""


def rises(metric: str, mode: str) -> bool:
    """Whether a higher value is better. Raises TrainingStopped where the name does not say so."""
    words = set(re.split("[/_]", metric))
    if mode == "auto" and bool(words & RISING) == bool(words & FALLING):
        raise TrainingStopped(f"Is more of '{metric}' better, or less?", "Add --best-mode max or --best-mode min.")
    return mode == "max" if mode != "auto" else bool(words & RISING)


def score_of(value: float | None, metric: str, mode: str) -> float:
    """A value of a metric as a number of which more is better; not a number where it is none."""
    number = float("nan") if value is None else value
    return number if rises(metric, mode) else -number


def forget_checkpoints(run: Run) -> None:
    """Remove the checkpoints of a run that has ended, but for those that its options keep."""
    config = run.config
    if config.get("keep_checkpoints"):
        return
    rule = KeepRule(config.get("keep_last", 1), config.get("keep_every", 0), config.get("keep_top", 0))
    scores = {}
    if rule.top:
        metric, mode = config["best_metric"], config["best_mode"]
        scores = {row["step"]: score_of(row[metric], metric, mode) for row in run.log_history if metric in row}
    rule.remove_at_end(run.checkpoints, best_steps(scores, rule.top))


class Steps(Protocol):
    """A loader of optimizer steps: their number, and the epochs after a number of them."""

    def __len__(self) -> int: ...
    def epoch(self, step: int) -> float: ...


class Recorder(Callback):
    """Writes metrics.jsonl, timing.jsonl and checkpoints, validates, stops early, and saves before it ends on request.

    validation: a function that gives the numbers of held-out data as `val/…`, or None. notify: called with
    (event, **facts) for the listeners. progress: called with (step, metrics). signals: deferred from the first step
    to the last. validations: how many, where eval_every does not say it. deadline: when the run must have ended.
    checkpoints: what the trainer writes them with. trackers: the loggers beside metrics.jsonl.
    """

    def __init__(
        self,
        run: Run,
        core: Any,
        loader: Steps,
        validation: Callable[[], dict[str, float]] | None,
        notify: Callable[..., None],
        progress: Callable[[int, dict[str, float]], None],
        signals: Signals,
        validations: int,
        deadline: Deadline,
        checkpoints: FolderCheckpoints,
        trackers: Trackers,
    ):
        self.run, self.core, self.loader = run, core, loader
        self.validation, self.notify, self.progress, self.signals = validation, notify, progress, signals
        self.deadline, self.checkpoints, self.trackers = deadline, checkpoints, trackers
        self.rule = KeepRule(core.keep_last, core.keep_every, core.keep_top)
        self.saved: int | None = None
        self.scores: dict[int, float] = {}
        self.eval_every = core.eval_every or max(1, -(-len(loader) // validations))
        self.best: float | None = None
        self.stale = 0
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.records = Records(run)

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["records"] = self.records.marks() if trainer.is_global_zero else None

    def state_dict(self) -> dict[str, Any]:
        kept = {"best": self.best, "stale": self.stale, "first": self.first, "last": self.last}
        return {**kept, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.stale = state["best"], state["stale"]
        self.first, self.last = state["first"], state["last"]
        self.scores = dict(state.get("scores", {}))

    # -- in the order of a run -----------------------------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        module.before_training()
        self.saved = module.steps_done or None
        if module.steps_done == 0 and self.validation is not None:
            self._validate(trainer, module)
        # Lightning exchanges something before each step without a word to anybody.
        begin_exchange()
        self.signals.install()
        self.signals.deferred = True

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        # Only now are the random numbers those of the first step.
        if module.steps_done == 0 and module.guarding.guards.can_roll_back:
            self._save(trainer, 0)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        step = module.steps_done
        last = step >= len(self.loader)
        row = {"step": step, "epoch": round(self.loader.epoch(step), 4), **module.step_metrics}
        if step % self.core.log_every == 0 or last or any(name.startswith(COUNTED) for name in row):
            self._write(trainer, row, module.timing.take())
        self.progress(step, row)
        if self.validation is not None and (step % self.eval_every == 0 or last):
            self._validate(trainer, module)
        if not last and self._is_due(step) and not module.guarding.doubted:
            self._save(trainer, step)
        self._tell_complete()
        self.notify("step_end", step=step, metrics=row)
        self._obey(trainer, module, step, last)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        step, wanted = module.steps_done, self.core.keep_checkpoints or self._is_for_good(module.steps_done)
        if wanted and self.signals.number is None and not trainer.interrupted:
            self._save(trainer, step)
        self.checkpoints.settle()
        self._tell_complete()

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        self.signals.deferred = False

    # -- the parts -----------------------------------------------------------------------------------------------

    def _validate(self, trainer: lightning.Trainer, module: Any) -> None:
        assert self.validation is not None
        with module.averaged():
            values = self.validation()
            self.first = self.first or values
            self.last = values
            self._write(trainer, {"step": module.steps_done, **values})
            self.progress(module.steps_done, values)
            self._judge(trainer, module, values)

    def _judge(self, trainer: lightning.Trainer, module: Any, values: dict[str, float]) -> None:
        """Keep the best weights, and stop when `patience` validations bring no improvement."""
        metric = self.core.best_metric
        if not (self.core.keep_best or self.core.keep_top or self.core.patience):
            return
        if metric not in values:
            raise TrainingStopped(f"best_metric '{metric}' is not measured.", f"There are: {', '.join(values)}.")
        value = self.scores[module.steps_done] = score_of(values[metric], metric, self.core.best_mode)
        if not math.isnan(value) and (self.best is None or value > self.best):
            self.best, self.stale = value, 0
            if self.core.keep_best:
                save_best(module, self.run.path / BEST, trainer.is_global_zero)
            return
        self.stale += 1
        if self.core.patience and self.stale >= self.core.patience:
            trainer.should_stop = True

    def _is_for_good(self, step: int) -> bool:
        return self.rule.is_for_good(step, best_steps(self.scores, self.rule.top))

    def _is_due(self, step: int) -> bool:
        return bool(self.core.save_every and step % self.core.save_every == 0) or self._is_for_good(step)

    def _save(self, trainer: lightning.Trainer, step: int) -> None:
        """Write a checkpoint, then remove those that are not kept any more.

        Weights that are no finite numbers are not written; the next step then says so, and a guard takes its action.
        """
        module: Any = trainer.lightning_module
        if step == self.saved or not module.guarding.weights_are_finite():
            return
        folder = Path(same_everywhere(trainer, str(self.run.checkpoints)))
        rule = replace(self.rule, back=self.core.save_every) if module.guarding.guards.can_roll_back else self.rule
        then = partial(rule.remove_old, folder, step, best_steps(self.scores, self.rule.top))
        trainer.save_checkpoint(folder / f"step-{step}", storage_options=then)
        self.saved = step

    def _tell_complete(self) -> None:
        """Tell the listeners of checkpoints that are complete by now. Raises what failed in writing one."""
        for path in self.checkpoints.look():
            self.notify("checkpoint_saved", step=step_of(path), path=path)

    def _obey(self, trainer: lightning.Trainer, module: Any, step: int, last: bool) -> None:
        """After a signal to any process, or at the end of the run's time, all processes save a checkpoint and stop."""
        time_is_up = self.deadline.is_near_at_the_end() if last else self.deadline.is_near()
        number = largest_of_all(trainer, self.signals.number or (TIME_UP if time_is_up else 0))
        if number == TIME_UP or number and not last:
            self.signals.number = number
            self._save(trainer, step)
            module.guarding.refuse_broken()
            trainer.should_stop = True
        elif last:
            self.signals.number = None

    def _write(self, trainer: lightning.Trainer, row: dict[str, Any], timing: dict[str, float] | None = None) -> None:
        """Add a row of metrics, and one of times to a file of their own: times differ in every run."""
        if not trainer.is_global_zero:
            return
        _append(self.run.path / "metrics.jsonl", row)
        if timing:
            _append(self.run.path / "timing.jsonl", {"step": row["step"], **timing})
        values = {name: value for name, value in row.items() if name != "step"}
        self.trackers.write(values | (timing or {}), row["step"])


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({name: _plain(value) for name, value in row.items()}) + "\n")


def _plain(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def save_best(module: Any, file: Path, writes: bool = True) -> None:
    """Write the trained weights beside the file, then rename. writes: this process does, the others take part."""
    weights = Gathering({name: p for name, p in module.policy.named_parameters() if p.requires_grad})
    values = weights.each(order_of(weights.like), keep=writes)
    if not writes:
        for _ in values:
            pass
        return
    beside = file.with_name(f".tmp-{file.name}")
    try:
        write(beside, weights.like, values)
        os.replace(beside, file)
    except Exception as error:
        beside.unlink(missing_ok=True)
        raise TrainingStopped(
            f"The best weights could not be written to {file}: {error}.",
            f"Free some space, then: zoo resume {file.parent}",
        ) from error
