"""A run from start to end: `train` and `resume`, as the command and as Python."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console

from zoo import registry
from zoo.config import Resolved, read_yaml, resolve
from zoo.data.loader import StepLoader
from zoo.data.template import ChatTemplate
from zoo.errors import TrainingStopped, ZooError
from zoo.evals import Score, Subject
from zoo.models.loading import load_tokenizer
from zoo.models.precision import autocast, choose_precision, rounding_tolerance
from zoo.models.roles import answers_in
from zoo.models.scoring import choose_layout
from zoo.runs import Run, create_run, find_run
from zoo.training import report, setup
from zoo.training.callbacks import Recorder
from zoo.training.checkpoints import FolderCheckpoints, newest_good
from zoo.training.module import PostTraining
from zoo.training.progress import Watch, counter
from zoo.training.sums import is_distributed


def train(algo: str | None = None, *, config: str | Path | None = None, quiet: bool = False, **options: Any) -> Run:
    """Train a model: `zoo.train(algo="dpo", model=…, data=…, beta=0.1)`.

    algo: a registered algorithm, `name@package`, or `./file.py:Class`; config: a YAML file of options; options: as
    `zoo train --help` lists them, the core's and the algorithm's. Returns the finished `Run`. Raises ZooError on
    input that cannot work, TrainingStopped when training cannot go on.
    """
    resolved, cls = resolve_options(algo, config, options, "keyword argument")
    return execute(resolved, cls, console=Console(quiet=quiet))


def resume(
    run: str | Path, *, allow_data_change: bool = False, trust_remote_code: bool = False, quiet: bool = False
) -> Run:
    """Go on with a run that was stopped, from its last complete checkpoint; without one it starts again.

    Raises ZooError when the run is finished, or its data is not what it was (unless `allow_data_change`).
    """
    found = find_run(str(run))
    if found.status == "finished":
        raise ZooError(f"The run {found.name} is finished.", f"Its model is in {found.model_path}.")
    values = {**found.config, "trust_remote_code": trust_remote_code}
    resolved, cls = resolve_options(values.pop("algo"), None, values, "run.yaml")
    return execute(resolved, cls, Console(quiet=quiet), resumed=found, allow_data_change=allow_data_change)


def resolve_options(
    algo: str | None, config: str | Path | None, given: Mapping[str, Any], origin: str
) -> tuple[Resolved, Any]:
    """The complete configuration and the algorithm's class."""
    file = read_yaml(config) if config else {}
    name = algo or file.pop("algo", None) or registry.default_name()
    file.pop("algo", None)
    short, cls = registry.load_algorithm(str(name))
    layers = [(str(config), file), (origin, {k: v for k, v in given.items() if v is not None})]
    return resolve(str(name) if ".py" in str(name) else short, cls, layers), cls


def execute(
    resolved: Resolved, cls: Any, console: Console, resumed: Run | None = None, allow_data_change: bool = False
) -> Run:
    """Everything between a configuration and a finished run folder."""
    quiet_libraries()
    return _Execution(resolved, cls(), console, resumed, allow_data_change).go()


class _Execution:
    """The stages of one run, in the order of the methods; what one stage makes the next ones use."""

    def __init__(self, resolved: Resolved, algorithm: Any, console: Console, resumed: Run | None, data_change: bool):
        self.resolved, self.core, self.algorithm = resolved, resolved.core, algorithm
        self.console, self.resumed, self.data_change = console, resumed, data_change
        self.main = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) == 0
        self.plugins = registry.manager(algorithm)
        for broken in registry.plugin_modules()[1]:
            self.say(f"Plugin '{broken.name}' of {broken.package} {broken.version} is left out: {broken.error}")

    def say(self, text: str) -> None:
        if self.main:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def go(self) -> Run:
        setup.seed_everything(self.core.seed)
        self.load()
        self.open_run()
        before = self.resumed.read_json("before.json") if self.resumed else self.score_before()
        stopped = self.fit()
        if not self.main:
            return self.run
        if stopped:
            return self.stop(stopped)
        return self.finish(before)

    # -- stages --------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Model, template, data, and the numbers that follow from them."""
        core = self.core
        self.accelerator = _accelerator(core.accelerator)
        self.precision, reason = choose_precision(core.precision, self.accelerator)
        self.source = setup.resolve_start(core.model, core.out, self.say)
        self.tokenizer = load_tokenizer(self.source, core.trust_remote_code)
        self.template = ChatTemplate(self.tokenizer, core.template)
        self.data = setup.load_data(core, self.algorithm.data, self.template, self.plugins, self.say)
        self.say(self.template.preflight(self.data.train.records))
        self.policy = setup.load_policy(core, self.source, self.precision)
        self.say(f"Precision {self.precision}: {reason}.")

    def open_run(self) -> None:
        """The run folder; a resumed run must still have the data it began with."""
        if self.resumed is not None:
            self.run = self.resumed
            self._check_data()
        elif self.main:
            default = f"{self._short_algo()}-{self.source.short_name}"
            self.run = create_run(self.core.out, self.core.name, default, self.resolved.as_dict())
            self.run.write_json("data.json", self.data.facts)
        else:
            self.run = Run(Path(self.core.out))

    def _short_algo(self) -> str:
        return Path(self.resolved.algo.split(":")[0]).stem if ".py" in self.resolved.algo else self.resolved.algo

    def _check_data(self) -> None:
        before, now = self.run.read_json("data.json"), self.data.facts
        for part in now:
            if before.get(part, {}).get("fingerprint") != now[part]["fingerprint"] and not self.data_change:
                raise ZooError(
                    f"The data of {self.run.name} ({part}) is not what the run began with.",
                    "Put the old file back, or accept the change: zoo resume --allow-data-change",
                )

    def score_before(self) -> dict[str, Any]:
        scores = self.score("before")
        if self.main:
            self.run.write_json("before.json", scores)
        return scores

    def score(self, when: str) -> dict[str, Any]:
        """The evaluations of this run, as JSON; only the first process makes them."""
        if not self.main:
            return {}
        available = registry.contributions(self.plugins, "evals")
        found = {}
        device = torch.device("cuda" if self.accelerator == "cuda" else self.accelerator)
        self.policy.to(device)
        for name in self._score_names(available):
            progress = counter(self.console, f"Scoring {name} ({when})")
            subject = Subject(self.policy, self.tokenizer, self.template, self.precision, progress=progress)
            score: Score = available[name].run(subject)
            found[name] = score.as_json()
            report.write_samples(self.run, when, score)
            self.say(f"{name} {when}: {score.text()}")
        return found

    def _score_names(self, available: Mapping[str, Any]) -> list[str]:
        wanted = self.core.score
        if wanted == "auto":
            return ["instructions"] if self.core.data.split(":")[0] == "starter" else []
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        names = [name for part in names for name in part.split(",") if name and name != "none"]
        for name in names:
            if name not in available:
                from zoo.errors import nearest

                raise ZooError(
                    f"No evaluation is called '{name}'.{nearest(name, available)}",
                    f"There are: {', '.join(available)}.",
                )
        return names

    def fit(self) -> int:
        """Train; returns the number of the signal that stopped it, or 0."""
        core = self.core
        processes = core.devices * core.num_nodes
        collate = setup.make_collate(self.plugins.hook, self.tokenizer, self.resolved.algorithm)
        rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
        loader = StepLoader(
            self.data.train.records, collate, batch_size=core.batch_size, epochs=core.epochs, max_steps=core.max_steps,
            seed=core.seed, rank=rank, processes=processes,
        )  # fmt: skip
        if core.batch_size < processes:
            raise ZooError(f"batch_size {core.batch_size} is below the {processes} processes.", "Raise --batch-size.")
        module = self._module(loader)
        with Watch(self.console, len(loader), show=self.main) as watch:
            recorder = Recorder(
                self.run, core, loader, self._validation(collate, rank, processes), self._notify(watch), watch.update
            )
            module.before_training = lambda: self._before_training(module, loader, watch)
            trainer = self._trainer(recorder)
            checkpoint = newest_good(self.run.checkpoints, self.say) if self.resumed else None
            if self.resumed:
                self.say(f"Resuming from {checkpoint.name}." if checkpoint else "No checkpoint yet: starting again.")
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        self.trainer, self.recorder, self.module = trainer, recorder, module
        return recorder.signal or 0

    def _module(self, loader: StepLoader) -> PostTraining:
        roles = self.algorithm.roles(self.resolved.algorithm)
        device = torch.device("cuda" if self.accelerator == "cuda" else self.accelerator)
        with autocast(self.precision, device):
            sample = [
                answer.to(next(self.policy.parameters()).device)
                for answer in setup.sample_answers(self.data.train.records)
            ]
            layout, note = choose_layout(self.policy, sample, self.core.layout, rounding_tolerance(self.precision))
        if note:
            self.say(note)
        models = setup.make_models(self.resolved, roles, self.policy, self.source, layout, self.precision, self.say)
        micro_tokens = setup.choose_micro_tokens(self.core, device, self.policy)
        counts = f"{len(self.data.train.records)} records, {len(loader)} steps of {self.core.batch_size}"
        trained = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        self.say(
            f"Training {self.resolved.algo}: {counts} (micro-batches of {micro_tokens} tokens, {layout} rows), "
            f"{trained / 1e6:.1f} M trained weights."
        )
        return PostTraining(
            self.policy, models, self.plugins.hook, self.algorithm, self.resolved.algorithm, self.core,
            total_steps=len(loader), micro_tokens=micro_tokens,
        )  # fmt: skip

    def _validation(self, collate: Any, rank: int, processes: int) -> Any:
        if self.data.held_out is None:
            return None
        held_out = self.data.held_out.records
        size = max(self.core.batch_size, processes)
        batches = StepLoader(held_out, collate, batch_size=size, shuffle=False, rank=rank, processes=processes)
        return lambda: [batches.batch(step) for step in range(len(batches))]

    def _before_training(self, module: PostTraining, loader: StepLoader, watch: Watch) -> None:
        """Score what the reference will be asked for, with the policy itself while it still is the reference."""
        models = module.models
        if "reference" in models and models.reference.cache is not None and "loss" in vars(type(self.algorithm)):
            batches = [loader.batch(step) for step in range(len(loader))]
            validation = self._validation(loader.collate, loader.rank, loader.processes)
            batches += validation() if validation else []
            if module.steps_done == 0 and self.core.reference is None:
                models.reference.stand_in(self.policy)
            done = 0
            answers = [answer.to(module.device) for batch in batches for answer in answers_in(batch)]
            for done, total in models.reference.warm(answers, module.micro_tokens):
                watch.count("reference log-probs", done, total)
            if done:
                watch.say(f"Reference log-probs: {done} computed, kept in the cache.")
            models.reference.release()
        self._notify(watch)("run_start", config=self.resolved.as_dict())

    def _notify(self, watch: Watch) -> Any:
        def notify(event: str, **facts: Any) -> None:
            if event == "interrupt":
                watch.say("Stopping after this step, with a checkpoint (again to stop at once).")
            elif self.main:
                getattr(self.plugins.hook, event)(run=self.run, **facts)

        return notify

    def _trainer(self, recorder: Recorder) -> lightning.Trainer:
        core = self.core
        if core.strategy not in ("auto", "ddp"):
            raise ZooError(f"--strategy {core.strategy} is not supported yet.", "Use auto or ddp.")
        return lightning.Trainer(
            accelerator=core.accelerator,
            devices=core.devices,
            num_nodes=core.num_nodes,
            strategy="ddp" if core.strategy == "auto" and core.devices * core.num_nodes > 1 else core.strategy,
            precision=self.precision,
            max_epochs=1,
            logger=report.make_loggers(core.loggers, self.run),
            callbacks=[recorder],
            plugins=[FolderCheckpoints()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(self.run.path),
        )

    def stop(self, number: int) -> Run:
        """After ctrl-C or SIGTERM: say how to go on."""
        step = self.module.steps_done
        self.run.write_json("summary.json", {"status": "stopped", "steps": step})
        name = "ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        stopped = TrainingStopped(
            f"Stopped by {name} after step {step}; the checkpoint is complete.",
            f"Go on with: zoo resume {self.run.path}",
        )
        stopped.exit_status = 128 + number
        raise stopped

    def finish(self, before: dict[str, Any]) -> Run:
        """Write the model, score it, sum up."""
        best = self.run.path / "best.safetensors"
        if best.is_file():
            from safetensors.torch import load_file

            self.policy.load_state_dict(load_file(best), strict=False)
        setup.export_model(self.policy, self.tokenizer, self.run.model_path)
        best.unlink(missing_ok=True)
        after = self.score("after")
        if not self.core.keep_checkpoints:
            shutil.rmtree(self.run.checkpoints, ignore_errors=True)
        summary = {
            "status": "finished",
            "algo": self.resolved.algo,
            "model": self.core.model,
            "data": self.core.data,
            "steps": self.module.steps_done,
            "num_tokens": self.module.tokens_seen,
            "before": {**_numbers(before), **self.recorder.first},
            "after": {**_numbers(after), **self.recorder.last},
            "scores": {"before": before, "after": after},
        }
        self.run.write_json("summary.json", summary)
        self.plugins.hook.run_end(run=self.run, metrics=self.module.step_metrics)
        report.closing_panel(self.console, self.run, summary)
        return self.run


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items()}


def _accelerator(wanted: str) -> str:
    """The device type that Lightning will choose: cpu, cuda or mps."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    names = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}
    if wanted not in names:
        raise ZooError(f"--accelerator {wanted} is not known.", f"Choose one of auto, {', '.join(names)}.")
    if names[wanted] == "cuda" and not torch.cuda.is_available():
        raise ZooError("--accelerator gpu: torch sees no GPU here.", "Use --accelerator auto.")
    return names[wanted]


def quiet_libraries() -> None:
    """Keep the libraries' own banners and hints out of the output; warnings about the user's input stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


__all__ = ["execute", "is_distributed", "resolve_options", "resume", "train"]
