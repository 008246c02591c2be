"""Standard tasks through the library lm-eval (EleutherAI's evaluation harness), on the model that is evaluated.

The task, its prompt and its metric are the library's; zoo passes the model and reads one number. Your own task file
with its data needs no network.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from zoo.errors import ZooError, nearest
from zoo.evals import Score, Subject
from zoo.evals.tasks import LM_EVAL, NAMED
from zoo.libraries.extras import needs
from zoo.models.precision import autocast
from zoo.paths import typed_path

PREFERRED = ("exact_match", "acc_norm", "acc", "f1", "pass@1", "bleu", "word_perplexity")
LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score")
Z = 1.959964


def lm_eval(
    subject: Subject, task: str, metric: str = "", fewshot: int | None = None, limit: int | None = None,
    chat: bool = False, batch: int = 8,
) -> Score:  # fmt: skip
    """One task of lm-eval, or a group such as mmlu, by name or as a .yaml file.

    metric: one of its numbers, as lm-eval calls it (`acc`, or `exact_match,strict-match` with the filter); fewshot:
    examples before each question; chat: use the model's chat template; batch: questions per batch.
    """
    needs(*LM_EVAL, "lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = typed_path(task)
    from_file = file.suffix in (".yaml", ".yml")
    if from_file and not file.is_file():
        raise ZooError(f"There is no task file {task}.", "Give a .yaml file of a task, or a name as lm-eval lists it.")
    manager = TaskManager(include_path=str(file.resolve().parent)) if from_file else TaskManager()
    name = _name_in(file) if from_file else task
    if name not in manager.all_tasks:
        raise ZooError(
            f"lm-eval has no task '{name}'.{nearest(name, manager.all_tasks)}", "List its tasks: lm-eval ls tasks"
        )
    limits = [rows for rows in (limit, subject.limit) if rows is not None]
    with warnings.catch_warnings(), _own_randomness(), autocast(subject.precision, subject.device):
        warnings.simplefilter("ignore")
        model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=batch)
        with _no_programs(name):
            results = simple_evaluate(
                model, tasks=[name], num_fewshot=fewshot, limit=min(limits, default=None), task_manager=manager,
                apply_chat_template=chat, bootstrap_iters=1000, log_samples=False,
            )  # fmt: skip
    return _score(name, results, metric)


@contextlib.contextmanager
def _no_programs(task: str) -> Iterator[None]:
    """Raises ZooError where lm-eval asks to confirm that it may run what the model writes."""
    try:
        yield
    except ValueError as error:
        if "confirm_run_unsafe_code" not in str(error):
            raise
        raise ZooError(
            f"The task {task} runs programs that the model writes, and lm-eval puts no boundary around them.",
            "zoo does not run it. The reward code has one: --eval 'accuracy(data=problems.jsonl, reward=code)'.",
        ) from None


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch, which the library seeds."""
    own = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(own[0])
            numpy.random.set_state(own[1])


def _name_in(file: Path) -> str:
    """The name of a file's task or group; the other lines may hold tags that only lm-eval can read."""
    if found := NAMED.search(file.read_text(encoding="utf-8")):
        return found[1]
    raise ZooError(f"{file} names no task.", "A task file has a line 'task: name' or 'group: name'.")


def _score(task: str, results: Mapping[str, Any], metric: str) -> Score:
    """The chosen number with its interval, value ± 1.96 standard errors, and all others as details."""
    row = results["results"][task]
    numbers = {
        key: float(value) for key, value in row.items()
        if isinstance(value, int | float) and "," in key and "_stderr," not in key
    }  # fmt: skip
    key = _chosen(numbers, metric, task)
    plain, _, kind = key.partition(",")
    error = row.get(f"{plain}_stderr,{kind}")
    half = Z * float(error) if isinstance(error, int | float) else 0.0
    # One for each task of a group.
    count = sum(counts["effective"] for counts in results.get("n-samples", {}).values())
    worse = any(word in plain for word in LOWER_IS_BETTER)
    details = {name.removesuffix(",none"): value for name, value in numbers.items()}
    return Score("lm_eval", numbers[key], int(count), numbers[key] - half, numbers[key] + half, not worse, details)


def _chosen(numbers: Mapping[str, float], metric: str, task: str) -> str:
    wanted = [metric] if metric else [*PREFERRED, *numbers]
    for name in wanted:
        for key in numbers:
            if key == name or key.partition(",")[0] == name:
                return key
    raise ZooError(
        f"The task {task} has no metric '{metric}'.{nearest(metric, numbers)}", f"It has: {', '.join(numbers)}."
    )
