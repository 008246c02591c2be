"""Validation: loss and metrics of held-out data, computed as in the optimizer steps, without gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from zoo.data.loader import micro_batches
from zoo.libraries.trainer import step_arithmetic
from zoo.randomness import restore_rng, rng_state
from zoo.training.step.module import PostTraining, out_of_memory
from zoo.training.step.parts import Parts
from zoo.training.step.sums import Sums, add_cases, case_values, cases_of_all
from zoo.training.step.token_losses import SHOWN, Costs, answers_of, costs_of
from zoo.values.types import Answer, Answers, Batch, metric_sums

Cases = dict[str, list[float | None]]


class Validation(NamedTuple):
    """The results of a validation. values: loss and metrics, as `val/…`.

    cases: the metrics case by case, of all processes; token_losses: the first answers with the loss of each token.
    """

    values: dict[str, float]
    cases: Cases
    token_losses: list[tuple[Answer, list[float | None]]]


@torch.no_grad()
def validate(module: PostTraining, batches: Iterable[Batch], mixed: Parts | None = None) -> Validation:
    """Loss and metrics over held-out batches; the algorithm's own state is left as it was. mixed: their parts."""
    sums, state, rng = Sums(), module.algorithm.state(), rng_state()
    cases: Cases = {}
    token_losses: list[tuple[Answer, list[float | None]]] = []
    module.models.training = False
    module.policy.eval()
    with step_arithmetic(module.trainer):
        for batch in batches:
            moved = batch.to(module.device)
            shown = answers_of(moved)[: SHOWN - len(token_losses)]
            of_batch, cases_of_batch, costs = _evaluated(module, moved, shown, mixed)
            sums.add(of_batch.pairs)
            add_cases(cases, cases_of_batch)
            token_losses += [(answer, costs[id(answer)]) for answer in shown if id(answer) in costs]
    cases = cases_of_all(cases)
    module.models.training = True
    module.policy.train()
    module.algorithm.load_state(state)
    restore_rng(rng)
    values = {f"val/{name}": value for name, value in sums.reduced(module.device).means().items()}
    return Validation(values, cases, token_losses)


def _evaluated(
    module: PostTraining, batch: Batch, shown: Answers, mixed: Parts | None
) -> tuple[Sums, Cases, Costs]:  # fmt: skip
    """One batch: sums, cases, and the token losses of the shown answers; out of memory, it is halved and done again."""
    while True:
        sums, parts = Sums(), micro_batches(batch, module.micro_tokens, module.algorithm.measured)
        cases: Cases = {}
        costs: Costs = {}
        try:
            module.hooks.measure(parts, module.device)
            for part in parts:
                loss = module.hooks.loss(part, module.steps_done)
                sums.add({"loss": (loss.numerator, loss.denominator), **metric_sums(loss.metrics)})
                sums.add(mixed.sums(loss, part) if mixed else {})
                add_cases(cases, {**case_values(loss.metrics, len(part)), **_lengths(part)})
                costs |= costs_of(part, loss, shown)
            return sums, cases, costs
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            module.halve(error)


def _lengths(batch: Batch) -> Cases:
    """`length/FIELD`, the counted tokens of each answer: a metric of a case may depend on them."""
    answers = {name: field for name, field in batch.fields.items() if isinstance(field, Answers)}
    return {f"length/{name}": [float(length) for length in field.lengths.tolist()] for name, field in answers.items()}
