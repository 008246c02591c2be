"""Reproduces a recipe: runs every unfinished stage of every seed, then judges the claims.

    runs/recipes/NAME-laptop/
      recipe.yaml  results.json  claims.csv  report.html  log.txt
      seed-0/stages.json  seed-0/STAGE/…            one run folder a stage, with evals.json
      logs/                                         the output of stages that run at the same time

A kill loses only what the stage did since its last checkpoint; the same command continues from there, with the same
results as an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from zoo.errors import NO_RUN, TrainingStopped, ZooError, was_asked
from zoo.libraries.quiet import quiet_libraries
from zoo.numbers import amount, clock
from zoo.paths import typed_path, write_text
from zoo.recipes import registered, results
from zoo.recipes.graph import drawn, jobs, stage_order
from zoo.recipes.schema import Recipe
from zoo.recipes.stages import Stages
from zoo.recipes.structure import written_at
from zoo.recipes.table import write_table
from zoo.recipes.verdicts import UNDECIDED, next_look
from zoo.report.plots.recipe_picture import write_picture
from zoo.report.recipe_page import write_recipe_page
from zoo.runs import hold
from zoo.terminal import Console
from zoo.workers.tasks import Task, Workers, run_tasks


class Reproduction:
    """One recipe at one scale, and its folder."""

    def __init__(
        self, recipe: Recipe, size: str, console: Console, *,
        seeds: int | Sequence[int] | None = None, only: str | None = None, out: str = "runs/recipes", command: str = "",
        workers: Workers | None = None, most_seeds: int = 0, recorded: bool = False,
    ):  # fmt: skip
        """seeds: a number of seeds, or these; by default as many as the recipe says. only: run this stage and those
        that it needs, and judge no claim; workers: run stages at the same time, each as a command of its own;
        most_seeds: while claims are undecided, go on with more seeds, up to this number; recorded: the results are to
        be stored next to the recipe, whose judging run is registered.

        Raises ZooError if the recipe has no such variant or stage, or is not ready to be judged.
        """
        variant = recipe.variant(size)
        self.recipe, self.variant, self.console, self.only = recipe, variant, console, only
        self.workers, self.out = workers, out
        self.command = command or f"zoo reproduce {recipe.name} --{size}"
        self.most_seeds, self.recorded = most_seeds, recorded
        count = variant.seeds if seeds is None else seeds
        begin = registered.first_seed(recipe, variant)
        self.seeds = list(range(begin, begin + count)) if isinstance(count, int) else list(count)
        if recorded:
            registered.check_seeds(self.seeds, recipe, variant)
        self.folder = typed_path(out) / f"{recipe.name}-{size}"
        self.order = stage_order(variant, only)
        self._plan()

    def _plan(self) -> None:
        """The stages of all seeds."""
        self.jobs = jobs(self.order, self.seeds, self.folder)
        self.stages = self._stages(Console(quiet=True))

    def _stages(self, log: Console) -> Stages:
        return Stages(
            self.jobs, lambda stage, key: written_at(self.recipe, self.variant, stage, key), self.command, self.console,
            log,
        )  # fmt: skip

    def say(self, text: str) -> None:
        self.console.say(text)

    @property
    def minutes(self) -> float:
        """How long the recipe says that these seeds take on two cores; 0 for the paper's scale."""
        conditions = self.variant.conditions
        return conditions.minutes * len(self.seeds) / conditions.seeds if conditions else 0.0

    def settled(self) -> dict[str, Any] | None:
        """The recorded results if they are of this experiment and more seeds would not be run; else None."""
        file = self.recipe.results_path(self.variant.name)
        if not file.is_file():
            return None
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        of_this = kept.get("digest") == self.variant.digest and set(self.seeds) <= set(kept["seeds"])
        goes_on = of_this and UNDECIDED in kept["counts"] and next_look(len(kept["seeds"]), self.most_seeds) is not None
        return kept if of_this and not goes_on else None

    # -- before anything runs --------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Print the stage graph, the seeds and the expected time."""
        title = f"{self.recipe.title}, {self.variant.name} scale"
        conditions = self.variant.conditions
        self.say(f"{title}\n{conditions.tests if conditions else ''}".strip())
        for line in drawn(self.order):
            self.say(f"  {line}")
        seeds = ", ".join(map(str, self.seeds))
        about = f", about {self.minutes:.2g} minutes" if conditions else ""
        self.say(f"{amount(len(self.order), 'stage')} for each of the seeds {seeds} in {self.folder}{about}.")

    def plan(self) -> dict[str, Any]:
        """The plan as JSON types: each stage with its options, their origins, and whether it is finished."""
        rows: list[dict[str, Any]] = []
        done: dict[tuple[int, str], bool] = {}
        for job in self.jobs:
            ready = all(done[job.seed, name] for name in job.stage.needs)
            done[job.seed, job.name] = ready and self.stages.is_finished(job)
            rows.append({
                "name": job.name, "seed": job.seed, "kind": job.kind, "needs": list(job.stage.needs),
                "folder": str(job.folder), "finished": done[job.seed, job.name],
                "options": self.stages.options(job), "evals": dict(self.stages.filled(job).evals),
            })  # fmt: skip
        return {"recipe": self.recipe.name, "variant": self.variant.name, "stages": rows, "notes": []}

    def rehearsed(self) -> dict[str, tuple[Any, Any, str]]:
        """For each stage that trains (one per sweep): its configuration, its algorithm, and its starting model."""
        first = {job.stage.sweep_of or job.name: job for job in reversed(self.jobs) if job.stage.algo}
        return {name: (*self.stages.resolved(job), self.stages.origin(job)) for name, job in reversed(first.items())}

    # -- running ---------------------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        """Run all stages and judge the claims; returns the results, which are also written to the folder."""
        quiet_libraries()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "log.txt").touch()
        except OSError as error:
            raise ZooError(
                f"The folder {self.folder} cannot be written: {error.strerror}.", "Name another folder with --out."
            ) from None
        with (
            # One stage alone may run beside others.
            hold(self.folder, f"Another process is working in {self.folder}.", self.command)
            if self.only is None
            else contextlib.nullcontext(),
            (self.folder / "log.txt").open("a", encoding="utf-8") as stream,
        ):
            self.log = Log(stream, self.say)
            self.stages = self._stages(self.log.console())
            write_text(self.folder / "recipe.yaml", self.recipe.path.read_text(encoding="utf-8"))
            gathered = self._judged()
            while (more := self._more_seeds(gathered)) is not None:
                self.say(f"{gathered['verdict']} after {amount(len(self.seeds), 'seed')}: going on to {more} seeds.")
                self.seeds += range(self.seeds[-1] + 1, self.seeds[-1] + 1 + more - len(self.seeds))
                self._plan()
                self.stages = self._stages(self.log.console())
                gathered = self._judged()
        return gathered

    def _judged(self) -> dict[str, Any]:
        """Make what is missing, and judge. Results are written after each look at the claims."""
        self._make_all() if self.workers is None else self._make_at_the_same_time(self.workers)
        entry = registered.entry_of(self.recipe, self.variant) or {}
        gathered = results.gather(
            self.recipe, self.variant, self.order, self.jobs, self.stages.record, self.command,
            entry.get("commit", ""),
        )  # fmt: skip
        if self.only is None:
            results.write(self.folder, gathered)
            write_recipe_page(self.folder, gathered)
        return gathered

    def _more_seeds(self, gathered: Mapping[str, Any]) -> int | None:
        """The number of seeds for the next look at the claims; None if they are decided or the seeds are spent."""
        if self.only is not None or UNDECIDED not in gathered["counts"]:
            return None
        return next_look(len(self.seeds), self.most_seeds)

    def record(self, gathered: Mapping[str, Any]) -> Path | None:
        """Store the results and their picture next to the recipe and update the table; None if that is impossible."""
        folder = self.recipe.path.parent
        path = self.recipe.results_path(self.variant.name)
        try:
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(results.stored(gathered), indent=1, ensure_ascii=False) + "\n")
            write_picture(path.with_suffix(".svg"), gathered)
            write_table(folder)
        except OSError as error:
            self.say(f"The results cannot be stored next to the recipe: {error.strerror} ({error.filename}).")
            return None
        return path

    def _make_at_the_same_time(self, workers: Workers) -> None:
        """Each seed by a command of its own; of a single seed, each stage after the stages that it needs."""
        unfinished = [job for job in self.jobs if not self.stages.is_finished(job)]
        seeds = list(dict.fromkeys(job.seed for job in unfinished))
        if len(seeds) > 1:
            tasks = [self._task(f"seed-{seed}", seed, "*") for seed in seeds]
        else:
            names = {job.name: f"{job.folder.name}-seed{job.seed}" for job in unfinished}
            tasks = [
                self._task(
                    names[job.name], job.seed, job.name, [names[name] for name in job.stage.needs if name in names]
                )
                for job in unfinished
            ]
        self.say(f"{len(tasks)} {'seeds' if len(seeds) > 1 else 'stages'} on {workers.name}")
        try:
            failed = run_tasks(tasks, workers, self.say)
        except KeyboardInterrupt:
            raise self._stopped("Stopped.", 130) from None
        if failed:
            logs = ", ".join(str(task.log) for task in tasks if task.name in failed and task.log.exists())
            raise TrainingStopped(
                f"These failed: {', '.join(sorted(failed))}.",
                f"Details: {logs}. Then continue with: {self.command}",
            )

    def _task(self, name: str, seed: int, only: str, needs: Sequence[str] = ()) -> Task:
        """The command that makes stages of a seed and judges nothing."""
        return Task(
            name,
            ("reproduce", str(self.recipe.path), f"--{self.variant.name}", "--yes", "--seeds", f"{seed},",
             "--only", only, "--out", self.out),
            self.folder / "logs" / f"{name}.log", tuple(needs),
        )  # fmt: skip

    def _make_all(self) -> None:
        begun = time.monotonic()
        for number, job in enumerate(self.jobs, 1):
            if self.stages.is_finished(job):
                self.say(f"stage {number} of {len(self.jobs)}: {job.name}, seed {job.seed}, is already finished")
                continue
            so_far = clock(time.monotonic() - begun)
            self.say(f"stage {number} of {len(self.jobs)}: {job.name}, seed {job.seed} ({job.kind}), {so_far} so far")
            self.log.begin()
            try:
                self.stages.make(job)
            except KeyboardInterrupt:
                raise self._stopped("Stopped by ctrl-C.", 130) from None
            except ZooError as error:
                raise self._explained(error, job.name, job.seed) from error
            finally:
                gc.collect()
                self.log.flush()
        self.say(f"Finished {amount(len(self.jobs), 'stage')} after {clock(time.monotonic() - begun)}.")

    def _stopped(self, message: str, status: int) -> TrainingStopped:
        kept = f"{message} Finished stages are kept in {self.folder}."
        stopped = TrainingStopped(kept, f"Continue with: {self.command}")
        stopped.exit_status = status
        return stopped

    def _explained(self, error: ZooError, name: str, seed: int) -> TrainingStopped:
        if was_asked(error):
            return self._stopped(error.message.replace(NO_RUN, ""), error.exit_status)
        message = f"The stage {name} with seed {seed} failed: {error.message}"
        hint = "" if error.hint.startswith(("Continue with", "Start again")) else f"{error.hint}\n"
        stopped = TrainingStopped(
            message, f"{hint}Details: {self.folder / 'log.txt'}. Then continue with: {self.command}"
        )
        stopped.exit_status = error.exit_status
        return stopped


QUIET_SECONDS = 10.0
"""A stage that takes less shows only its results."""


class Log(io.TextIOBase):
    """A stream to `file` that also shows its newest line if nothing was shown for a while."""

    def __init__(self, file: TextIO, show: Callable[[str], None]):
        self.file, self.show = file, show
        self.begin()

    def begin(self) -> None:
        """Start the log of a new stage."""
        self.shown = time.monotonic()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.file.write(text)
        line = text.strip()
        if line and time.monotonic() - self.shown > QUIET_SECONDS:
            self.shown = time.monotonic()
            self.show(f"  {line.splitlines()[-1]}")
        return len(text)

    def flush(self) -> None:
        self.file.flush()

    def console(self) -> Console:
        return Console(file=self, width=120, force_terminal=False)  # type: ignore[arg-type]
