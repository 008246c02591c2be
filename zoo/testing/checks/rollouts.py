"""What the core relies on if an algorithm learns from its policy's own answers."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.testing.bench import Bench
from zoo.testing.checks.contract import same
from zoo.testing.checks.cuts import alike, compare_all
from zoo.testing.rolling import Replayed, Rolled, TakingTurns, answer_key
from zoo.testing.steps import Failed, NotApplicable, Stage, step, with_options
from zoo.testing.tiny import tiny_reward
from zoo.training.online.experience import packed, unpacked
from zoo.values.types import Answer, Answers, Batch, Ragged

PROCESSES = 2


def rollout_invariance(bench: Bench) -> None:
    """A rollout is the same for any number of processes, on each of them, and for any order of its prompts."""
    _only_online(bench)
    for options in bench.variants:
        alone = bench.roll(bench.stage(options), options)
        work = functools.partial(_fresh, bench, options)
        shared = TakingTurns(PROCESSES).run([work] * PROCESSES)
        if name := _difference(shared[0].batch, shared[1].batch):
            raise Failed(f"After a joint rollout, two processes have a different {name}{with_options(options)}.")
        if name := _difference(alone.batch, shared[0].batch):
            raise Failed(f"With one process and with two, the rollout has a different {name}{with_options(options)}.")
        forwards, backwards = _replayed(bench, options)
        if name := _difference(_sorted(forwards.batch), _sorted(backwards.batch)):
            raise Failed(
                f"The same answers give a different {name} if the prompts are reversed{with_options(options)}."
            )


def missing_rewards(bench: Bench) -> None:
    """An answer whose reward is missing has no weight, not even for a critic; all rewards may be missing."""
    _only_online(bench)
    for options in bench.variants:
        stage = bench.stage(options)
        rolled = bench.roll(stage, options, worth=_every_third_missing)
        if not rolled.scores:
            raise NotApplicable("it uses no reward")
        missing = {key for key, value in rolled.scores.items() if math.isnan(value)}
        kept = [i for i in range(len(rolled.batch)) if not missing & _answers_at(rolled.batch, i)]
        rolled.batch.on_policy = False
        every = step([(stage, [rolled.batch])])
        if not every.finite:
            raise Failed(f"If some rewards are missing, the loss or a gradient is not finite{with_options(options)}.")
        rest = step([(stage, [rolled.batch.select(kept)])]) if kept else every
        every.metrics, rest.metrics = {}, {}
        compare_all({"answers without a reward included": every, "these answers left out": rest}, options)
        nothing = bench.roll(bench.stage(options), options, worth=lambda texts, records: [None] * len(texts))
        if not step([(stage, [nothing.batch])]).finite:
            raise Failed(f"If all rewards are missing, the loss or a gradient is not finite{with_options(options)}.")


def flat_rewards(bench: Bench) -> None:
    """With the options that the author names, equal rewards give a gradient of exactly zero."""
    _only_online(bench)
    if not bench.declared.flat:
        raise NotApplicable("no options are declared for it")
    for options in bench.declared.flat:
        for value in (0.3, 1.0):
            stage = bench.stage(options)
            rolled = bench.roll(stage, options, worth=lambda texts, records, value=value: [value] * len(texts))
            rolled.batch.on_policy = False
            gradients = step([(stage, [rolled.batch])]).gradients
            if largest := max((float(gradient.abs().max()) for gradient in gradients.values()), default=0.0):
                raise Failed(
                    f"If every reward is {value}, there is a gradient of {largest:.3g}{with_options(options)}."
                )


def kept_experience(bench: Bench) -> None:
    """A rollout in a checkpoint is restored bit for bit, without unpickling code."""
    _only_online(bench)
    for options in bench.variants:
        batch = bench.rolled(options).batch
        file = io.BytesIO()
        try:
            torch.save(packed(batch), file)
            file.seek(0)
            again = unpacked(torch.load(file, weights_only=True))
        except (ZooError, RuntimeError, ValueError) as error:
            raise Failed(f"A checkpoint cannot hold the batch{with_options(options)}: {error}") from error
        except Exception as error:
            raise Failed(
                f"A checkpoint cannot hold the batch{with_options(options)}: its fields must be tensors, Answers, "
                f"Ragged, a Batch, or lists of these, of numbers and of strings ({type(error).__name__})."
            ) from error
        for name, field in batch.fields.items():
            if not same(field, again.fields[name]):
                raise Failed(f"A checkpoint changes the field {name}{with_options(options)}.")


# -- the parts -------------------------------------------------------------------------------------------------------


def _only_online(bench: Bench) -> None:
    if not bench.cls.online():
        raise NotApplicable("it is not an online algorithm")


def _fresh(bench: Bench, options: Mapping[str, Any]) -> Rolled:
    return bench.roll(bench.stage(options), options)


def _every_third_missing(texts: Sequence[str], records: Sequence[Any]) -> list[float | None]:
    """Some rewards are missing, for any number of answers."""
    values = tiny_reward(texts, records)
    return [None if i % 3 == 1 else 0.5 if value is None else value for i, value in enumerate(values)]


def _answers_at(batch: Batch, index: int) -> set[tuple[Any, ...]]:
    fields = [field for field in batch.fields.values() if isinstance(field, Answers)]
    return {answer_key(field[index]) for field in fields}


def _replayed(bench: Bench, options: Mapping[str, Any]) -> tuple[Rolled, Rolled]:
    """Rollouts of the prompts in order and reversed, with the same answers."""
    answers: dict[str, dict[tuple[Any, ...], list[Answer]]] = {}
    rollouts = []
    for direction in (1, -1):
        stage: Stage = bench.stage(options)
        prompts = bench.prompts(stage, options)[::direction]
        for role in ("policy", *stage.models.frozen()):
            known = answers.setdefault(role, {})
            stage.wrap(**{role: lambda writer, known=known: Replayed(writer, known)})
        rollouts.append(bench.roll(stage, options, prompts=prompts))
    return rollouts[0], rollouts[1]


def _sorted(batch: Batch) -> Batch:
    """The examples, sorted by their answers."""
    return batch.select(sorted(range(len(batch)), key=lambda i: sorted(map(repr, _answers_at(batch, i)))))


def _difference(a: Batch, b: Batch) -> str:
    """The first field in which two batches differ by more than rounding; empty if none does."""
    if a.fields.keys() != b.fields.keys() or len(a) != len(b):
        return "batch"
    return next((name for name in a.fields if not _equal(a.fields[name], b.fields[name])), "")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Batch):
        return isinstance(b, Batch) and not _difference(a, b)
    if isinstance(a, Ragged):
        return isinstance(b, Ragged) and alike([row.tolist() for row in a.rows], [row.tolist() for row in b.rows])
    if isinstance(a, Answers):
        return isinstance(b, Answers) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Answer):
        return isinstance(b, Answer) and alike(vars(a), vars(b))
    return alike(a, b)
