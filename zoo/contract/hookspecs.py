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

    Or `{name: zoo.api.DataSource}`, which brings options of the core that fit the data, too.
    """


@hookspec
def models() -> Any:  # type: ignore[empty-body]
    """Named models: `{name: function(part, say) -> path of a Hugging Face folder}`, for `--model name:part`.

    One that has a method `check(part)`, which raises ZooError, is asked by recipes before anything is made.
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


# -- an algorithm: called in this order --------------------------------------------------------------------------


@hookspec(firstresult=True)
def prepare(records: list, models: Any, config: Any) -> Any:
    """Once, before training, with the encoded records; returns the records to train on (label, filter, extend)."""


@hookspec(firstresult=True)
def collate(records: list, tokenizer: Any, config: Any, max_length: int) -> Any:
    """Per optimizer step: the step's encoded records → `Batch`. The default follows the algorithm's data kind.

    The records are those of all processes, each of which then takes its share of the batch. max_length: tokens that no
    text of the run exceeds, for texts that are made here.
    """


@hookspec(firstresult=True)
def rollout(prompts: list, models: Any, config: Any, score: Any) -> Any:
    """Per iteration, without gradient: encoded prompts → `Batch` of experience. Its presence makes an algorithm online.

    `score(answers, unfinished=False, instead_of=None)` is the run's reward, float32 [B], NaN where it is missing;
    unfinished: these are beginnings of answers, which no number of the rollout counts; instead_of: answers that were
    scored before and that these stand in for, which no number counts any longer. The prompts are those of all
    processes; what is generated and scored in here is shared out among these, so that every process returns the same
    batch.
    """


@hookspec(firstresult=True)
def measure(batch: Any, models: Any, config: Any) -> Any:
    """Per micro-batch, before any loss of the step, without gradient: `{name: (sum, count)}` or `{name: sum}`.

    The core adds both up over the whole step (micro-batches and processes); `loss` finds sum / count, or the sum
    where there is no count, in `batch.measured[name]`.
    """


@hookspec(firstresult=True)
def loss(batch: Any, models: Any, config: Any, step: int) -> Any:
    """Per micro-batch, with gradient → `Loss`. `step` counts optimizer steps from 0."""


@hookspec(firstresult=True)
def finish(records: list, models: Any, config: Any) -> None:
    """Once, after the last step, with the training records and the weights that go into `model/`, without gradient."""


# -- listeners: called on every plugin ---------------------------------------------------------------------------


@hookspec
def run_start(run: Any, config: Any) -> None:
    """The run folder exists, models and data are ready, no step has been made."""


@hookspec
def rollout_end(run: Any, step: int, metrics: dict) -> None:
    """A rollout was made before optimizer step `step`; `metrics` are its numbers as they stand in metrics.jsonl."""


@hookspec
def step_end(run: Any, step: int, metrics: dict) -> None:
    """An optimizer step was made; `metrics` are its numbers as they stand in metrics.jsonl."""


@hookspec
def checkpoint_saved(run: Any, step: int, path: Any) -> None:
    """A checkpoint stands complete under its final name."""


@hookspec
def run_end(run: Any, metrics: dict) -> None:
    """Training ended and `model/` is written; `metrics` are the last step's."""
