"""Everything a plugin can hook into, in the order of a run's life.

A hook implementation takes only the arguments it wants. An algorithm implements `prepare`, `collate`, `rollout`,
`measure`, `loss` and `finish` as methods of its class; any other plugin implements the rest as functions marked
`@hookimpl`, and may wrap an algorithm's hooks with `@hookimpl(wrapper=True)` but not replace them.
"""

from __future__ import annotations

from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")

ALGORITHM_HOOKS = ("prepare", "collate", "rollout", "measure", "loss", "finish")
"""Only the chosen algorithm may implement these."""
LISTENER_HOOKS = ("run_start", "rollout_end", "step_end", "checkpoint_saved", "run_end")
"""Called on every plugin, and on the chosen algorithm."""


# -- what a plugin contributes: called when the plugins are loaded ----------------------------------------------


@hookspec
def sources() -> Any:  # type: ignore[empty-body]
    """Named data sources: `{name: function(split, kind) -> list of records}`, for `--data name`.

    Or `{name: zoo.api.DataSource}`, which also sets options of the core that fit the data.
    """


@hookspec
def models() -> Any:  # type: ignore[empty-body]
    """Named models: `{name: function(part, say) -> path of a Hugging Face folder}`, for `--model name:part`.

    If the function has a method `check(part)`, which raises ZooError, recipes call it before anything runs.
    """


@hookspec
def rewards() -> Any:  # type: ignore[empty-body]
    """Named rewards: `{name: function(completions, records) -> list of float or None}`, for `--reward name`."""


@hookspec
def evals() -> Any:  # type: ignore[empty-body]
    """Named evaluations: `{name: zoo.api.Eval}`, for `zoo eval --eval name`."""


@hookspec
def engines() -> Any:  # type: ignore[empty-body]
    """Named generation engines: `{name: function(setup, **options) -> zoo.api.Engine}`, for `--engine name`."""


@hookspec
def environments() -> Any:  # type: ignore[empty-body]
    """Named environments: `{name: subclass of zoo.api.Environment, or function(**options) that makes one}`.

    For `--environment name`.
    """


@hookspec
def guards() -> Any:  # type: ignore[empty-body]
    """Named guards: `{name: function(setup, **options) -> zoo.api.Guard}`, for `--guards name`."""


@hookspec
def optimizers() -> Any:  # type: ignore[empty-body]
    """Named optimizers: `{name: function(groups, **options) -> torch.optim.Optimizer}`, for `--optimizer name`.

    groups: the trained weights, as a list of `zoo.api.ParameterGroup`. Schedules and rollbacks set the `lr` of the
    optimizer's own groups before each step.
    """


@hookspec
def schedules() -> Any:  # type: ignore[empty-body]
    """Named schedules: `{name: function(step, total, warmup, **options) -> float}`, for `--schedule name`.

    Called for the steps after the warmup, of 0 to total; returns the learning rate as a share between its peak (1) and
    its floor (0).
    """


# -- an algorithm: called in this order --------------------------------------------------------------------------


@hookspec(firstresult=True)
def prepare(records: Any, models: Any, config: Any) -> Any:
    """Once, before training, with the encoded `Records`; returns the records to train on (label, filter, extend).

    It may return `Records` or any iterable of records.
    """


@hookspec(firstresult=True)
def collate(records: list, tokenizer: Any, config: Any, max_length: int) -> Any:
    """Per optimizer step: the step's encoded records → `Batch`. The default follows the algorithm's data kind.

    The records are those of all processes; each process then takes its share of the batch. max_length: the most tokens
    of a text in this run, for texts that this hook creates.
    """


@hookspec(firstresult=True)
def rollout(prompts: list, models: Any, config: Any, score: Any) -> Any:
    """Per iteration, without gradients: encoded prompts → `Batch` of experience. An algorithm with it is online.

    `score(answers, unfinished=False, instead_of=None)` is the run's reward, float32 [B], NaN where it is missing.
    unfinished: the answers are only beginnings, which the rollout's statistics leave out; instead_of: answers that were
    scored before and that these replace, so that the statistics no longer count them. The prompts are those of all
    processes; generation and scoring are divided among the processes, and every process returns the same batch.
    """


@hookspec(firstresult=True)
def measure(batch: Any, models: Any, config: Any) -> Any:
    """Per micro-batch, before any loss of the step, without gradients: `{name: (sum, count)}` or `{name: sum}`.

    The core sums both over the whole step (micro-batches and processes); `batch.measured[name]` gives `loss` the
    sum / count, or the sum if there is no count.
    """


@hookspec(firstresult=True)
def loss(batch: Any, models: Any, config: Any, step: int) -> Any:
    """Per micro-batch, with gradients → `Loss`. `step` counts optimizer steps from 0."""


@hookspec(firstresult=True)
def finish(records: Any, models: Any, config: Any) -> None:
    """Once, after the last step, with the training records and the weights that go into `model/`, without gradients."""


# -- listeners: called on every plugin ---------------------------------------------------------------------------


@hookspec
def run_start(run: Any, config: Any) -> None:
    """The run folder exists, models and data are ready, and no step has run."""


@hookspec
def rollout_end(run: Any, step: int, metrics: dict) -> None:
    """A rollout was made before optimizer step `step`; `metrics` are its numbers as in metrics.jsonl."""


@hookspec
def step_end(run: Any, step: int, metrics: dict) -> None:
    """An optimizer step was made; `metrics` are its numbers as in metrics.jsonl."""


@hookspec
def checkpoint_saved(run: Any, step: int, path: Any) -> None:
    """A checkpoint is complete under its final name."""


@hookspec
def run_end(run: Any, metrics: dict) -> None:
    """Training ended and `model/` is written; `metrics` are the last step's."""
