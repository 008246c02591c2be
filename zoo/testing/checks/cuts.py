"""The result of a step must not depend on padding, layouts, micro-batches, processes or the order of examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import micro_batches
from zoo.testing.bench import Bench
from zoo.testing.steps import Failed, Outcome, Stage, step, with_options
from zoo.values.types import Answer, Answers, Batch, Ragged

RELATIVE, ABSOLUTE = 2e-4, 2e-5
"""Tolerances for rounding in float32 on the tiny model."""
FEW_TOKENS = 180
"""About three examples of the tiny rows."""
Parts = Sequence[tuple[Stage, Sequence[Batch]]]


def padding_invariance(bench: Bench) -> None:
    """Padding changes nothing: neither a longer neighbour in the micro-batch, nor masked tokens after an answer."""

    def cuts(stage: Stage, batch: Batch) -> dict[str, Parts]:
        stage.lay_out("padded")
        parts: dict[str, Parts] = {
            "all examples in one padded micro-batch": [(stage, [batch])],
            "each example alone, without padding": [(stage, _singles(batch))],
        }
        if bench.cls.head == "lm":
            longer = Batch(**{name: _lengthened(field) for name, field in batch.fields.items()})
            longer.on_policy = batch.on_policy
            parts["masked tokens after each answer"] = [(stage, [longer])]
        return parts

    _same_for_all(bench, cuts)


def layout_invariance(bench: Bench) -> None:
    """Shared, packed and padded rows give the same result."""
    for options in bench.variants:
        outcomes: dict[str, Outcome] = {}
        for layout in ("shared", "packed", "padded"):
            stage = _stage(bench, options)
            stage.lay_out(layout)
            outcomes[f"{layout} rows"] = step([(stage, [bench.batch(stage, options)])])
        compare_all(outcomes, options)


def micro_batch_invariance(bench: Bench) -> None:
    """The step is the same with one micro-batch, with a few, and with one per example."""

    def cuts(stage: Stage, batch: Batch) -> dict[str, Parts]:
        return {
            "one micro-batch": [(stage, [batch])],
            "a few micro-batches": [(stage, micro_batches(batch, FEW_TOKENS))],
            "one example per micro-batch": [(stage, _singles(batch))],
        }

    _same_for_all(bench, cuts)


def process_invariance(bench: Bench) -> None:
    """Two processes, each with its share of the batch and its own algorithm, make the same step as one."""
    for options in bench.variants:
        alone = _stage(bench, options)
        first = _stage(bench, options)
        second = first.beside(bench.cls)
        second.models.training = first.models.training
        shares = [
            (stage, [bench.batch(stage, options, rank=rank, processes=2)]) for rank, stage in enumerate((first, second))
        ]
        one, two = step([(alone, [bench.batch(alone, options)])]), step(shares)
        compare_all({"one process": one, "two processes": two}, options)
        if not alike(two.states[0], two.states[1]):
            raise Failed(f"After a step, the two processes have different states{with_options(options)}: {two.states}.")


def order_invariance(bench: Bench) -> None:
    """The order of the examples in a micro-batch does not matter."""

    def cuts(stage: Stage, batch: Batch) -> dict[str, Parts]:
        mixed = random.Random(0).sample(range(len(batch)), len(batch))
        backwards = list(reversed(range(len(batch))))
        return {
            "the examples in order": [(stage, [batch])],
            "the examples reversed": [(stage, [batch.select(backwards)])],
            "the examples shuffled": [(stage, [batch.select(mixed)])],
        }

    _same_for_all(bench, cuts)


# -- the parts -------------------------------------------------------------------------------------------------------


def _same_for_all(bench: Bench, cuts: Callable[[Stage, Batch], dict[str, Parts]]) -> None:
    """For every variant, all cuts of the same batch give the same step; each is made with a fresh algorithm."""
    for options in bench.variants:
        stage = _stage(bench, options)
        first, *others = (parts := cuts(stage, bench.batch(stage, options)))
        outcomes = {first: step(parts[first])}
        for name in others:
            fresh = _stage(bench, options)
            outcomes[name] = step(cuts(fresh, bench.batch(fresh, options))[name])
        compare_all(outcomes, options)


def _stage(bench: Bench, options: Mapping[str, Any]) -> Stage:
    """A stage whose step draws no random numbers: if training does, the stage is in validation mode."""
    stage = bench.stage(options)
    stage.models.training = not bench.draws(options)
    return stage


def _singles(batch: Batch) -> list[Batch]:
    return [batch.select([i]) for i in range(len(batch))]


def _lengthened(value: Any) -> Any:
    """Answers with additional masked tokens after them."""
    if isinstance(value, Answers):
        return Answers([_longer(answer, _more(i)) for i, answer in enumerate(value)])
    if isinstance(value, Ragged):
        # As many as the answers of the batch, in the same order.
        return Ragged([torch.cat([row, row.new_zeros(_more(i))]) for i, row in enumerate(value.rows)])
    if isinstance(value, list):
        return [_lengthened(one) if isinstance(one, list) else _longer(one, 3) for one in value]
    return value


def _more(i: int) -> int:
    return 2 + 5 * (i % 3)


def _longer(answer: Any, count: int) -> Any:
    if not isinstance(answer, Answer):
        return answer
    behaviour, correction = answer.behaviour, answer.correction
    return replace(
        answer,
        completion=torch.cat([answer.completion, torch.full((count,), 7)]),
        mask=torch.cat([answer.mask, torch.zeros(count, dtype=torch.bool)]),
        behaviour=None if behaviour is None else torch.cat([behaviour, torch.zeros(count)]),
        correction=None if correction is None else torch.cat([correction, torch.ones(count)]),
    )


def compare_all(outcomes: Mapping[str, Outcome], options: Mapping[str, Any]) -> None:
    (first, expected), *others = outcomes.items()
    for name, outcome in others:
        if found := difference(expected, outcome):
            raise Failed(f"{found} with {first} and with {name}{with_options(options)}.")


def difference(a: Outcome, b: Outcome) -> str:
    """The first difference of two steps beyond rounding, in words; empty without one."""
    if not alike(a.loss, b.loss):
        return f"The loss differs ({a.loss:.6g} and {b.loss:.6g})"
    if a.metrics.keys() != b.metrics.keys():
        return f"The metrics differ (only one has {', '.join(sorted(a.metrics.keys() ^ b.metrics.keys()))})"
    for name in a.metrics:
        if not alike(a.metrics[name], b.metrics[name]):
            return f"The metric {name} differs ({a.metrics[name]:.6g} and {b.metrics[name]:.6g})"
    largest = max((float(gradient.abs().max()) for gradient in a.gradients.values()), default=0.0)
    for name, gradient in a.gradients.items():
        gap = float((gradient - b.gradients.get(name, torch.zeros_like(gradient))).abs().max())
        if not gap <= 5 * RELATIVE * largest + ABSOLUTE:
            return f"The gradient of {name} differs (by {gap:.3g}; the largest gradient is {largest:.3g})"
    if not alike(a.states[0], b.states[0]):
        return f"The algorithm's state after the step differs ({a.states[0]} and {b.states[0]})"
    return ""


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal up to rounding, recursively in dicts, lists and tensors."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and alike(a.tolist(), b.tolist())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return a == b or (a != a and b != b) or abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b))
    return bool(a == b)
