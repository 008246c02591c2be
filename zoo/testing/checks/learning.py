"""A few steps on the tiny rows: the loss falls, and good answers gain on bad ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.testing.bench import Bench
from zoo.testing.rolling import Rolled, answer_key, answers_of
from zoo.testing.steps import Failed, NotApplicable, Stage, adjust, step, with_options
from zoo.values.types import Answer, Answers

LEARNING_RATE, LEARNING_STEPS = 5e-4, 6
ONLINE_RATE, ROLLOUTS = 3e-3, 4


@dataclass(frozen=True)
class Practice:
    """The result of a few steps: the metrics of each, and the lead of good answers over bad ones before and after."""

    steps: list[dict[str, float]]
    before: list[float]
    after: list[float]


def learns(bench: Bench) -> None:
    """A few steps on the same rows reduce the loss, or the metric that the author names; rollouts earn more reward."""
    if bench.cls.online() and bench.rolled({}).scores:
        return _earns_more(bench)
    sign, name = (-1, bench.declared.falls[1:]) if bench.declared.falls[0] == "-" else (1, bench.declared.falls)
    for options in bench.variants:
        steps = _practice(bench, options).steps
        if name not in steps[0]:
            raise Failed(f"conformance names the metric '{name}', which is not reported: {', '.join(steps[0])}.")
        first, last = steps[0][name], steps[-1][name]
        if not sign * last < sign * first:
            raise Failed(
                f"{LEARNING_STEPS} steps on the same rows change {name} from {first:.4g} to {last:.4g}"
                f"{with_options(options)}."
            )


def _earns_more(bench: Bench) -> None:
    """Rollouts with the same random numbers, so that only the policy changes."""
    for options in bench.variants:
        stage = bench.stage(options, start=True, own=True)
        optimizer = torch.optim.AdamW([p for _, p in stage.weights()], lr=ONLINE_RATE, weight_decay=0.0)
        earned = []
        for _ in range(ROLLOUTS):
            rolled = bench.roll(stage, options)
            earned.append(rolled.metrics["rollout/reward"])
            adjust(stage, optimizer, step([(stage, [rolled.batch])]))
        earned.append(bench.roll(stage, options).metrics["rollout/reward"])
        if not max(earned[-2:]) > earned[0]:
            raise Failed(
                f"After {ROLLOUTS} rollouts the mean reward is {earned[-1]:.4g}; before it was {earned[0]:.4g}"
                f"{with_options(options)}."
            )


def right_direction(bench: Bench) -> None:
    """The same steps make good answers likelier: relative to bad ones, or by themselves if answers have labels."""
    for options in bench.variants:
        practice = _practice(bench, options)
        if not practice.before:
            raise NotApplicable(f"data of kind {bench.kind(options)} does not say which answers are good for this head")
        if not any(after > before for before, after in zip(practice.before, practice.after, strict=True)):
            raise Failed(
                f"{LEARNING_STEPS} steps reduce the lead of good answers over bad ones, or of good answers by "
                f"themselves, from {practice.before[0]:.4g} to {practice.after[0]:.4g}{with_options(options)}. "
                "Is the sign right?"
            )


def _practice(bench: Bench, options: Mapping[str, Any]) -> Practice:
    """Learning that starts with the policy equal to its reference; done once for both checks."""
    key = f"{bench.kind(options)} {dict(options)}"
    if key not in bench.practised:
        stage = bench.stage(options, start=True, own=True)
        batch = bench.batch(stage, options)
        optimizer = torch.optim.AdamW([p for _, p in stage.weights()], lr=LEARNING_RATE, weight_decay=0.0)
        before, steps = _advantage(bench, stage, options), []
        for _ in range(LEARNING_STEPS):
            outcome = step([(stage, [batch])])
            steps.append({**outcome.metrics, "loss": outcome.loss})
            adjust(stage, optimizer, outcome)
            batch.on_policy = False
        bench.practised[key] = Practice(steps, before, _advantage(bench, stage, options))
    return bench.practised[key]


# -- what the data calls good ----------------------------------------------------------------------------------------


@torch.no_grad()
def _advantage(bench: Bench, stage: Stage, options: Mapping[str, Any]) -> list[float]:
    """The lead of good answers over bad ones: in scores, or in log-probabilities, both summed and per token.

    Labelled single answers may also rise by themselves: a likelihood that weights good ones more raises both at first.
    Empty for kinds of data without good and bad answers.
    """
    if bench.cls.online():
        return _advantage_of_answers(stage, bench.rolled(options, start=True))
    records = bench.encoded(options)
    if bench.kind(options) == "stepwise":
        return _advantage_of_steps(stage, records) if bench.cls.head == "scalar" else []
    sides = [_sides(record) for record in records]
    good = [answer for better, _ in sides for answer in better]
    bad = [answer for _, worse in sides for answer in worse]
    if not good:
        return []
    above = _values(bench, stage, good)
    below = _values(bench, stage, bad) if bad else [torch.zeros(1)] * len(above)
    leads = [float(one.mean() - other.mean()) for one, other in zip(above, below, strict=True)]
    return [*leads, *(float(one.mean()) for one in above)] if bench.kind(options) == "feedback" else leads


def _advantage_of_answers(stage: Stage, rolled: Rolled) -> list[float]:
    """The lead of better answers to a prompt over worse ones, or over all prompts if each has one answer.

    In log-probabilities, each answer weighted by its reward minus the mean of the answers that it is compared with.
    """
    answers_by_key = {answer_key(one): one for answers in answers_of(rolled.batch) for one in answers}
    rewarded = [key for key in answers_by_key if rolled.scores.get(key, math.nan) == rolled.scores.get(key)]
    groups: dict[Any, list[float]] = {}
    alone = len({key[0] for key in rewarded}) == len(rewarded)
    for key in rewarded:
        groups.setdefault(None if alone else key[0], []).append(rolled.scores[key])
    means = {row: sum(values) / len(values) for row, values in groups.items()}
    if not rewarded:
        return []
    logps = stage.models._roles["policy"].logps(Answers([answers_by_key[key] for key in rewarded]))
    above = torch.tensor([rolled.scores[key] - means[None if alone else key[0]] for key in rewarded])
    return [float((above * one).sum()) for one in (logps.sum(), logps.mean())]


def _sides(record: Mapping[str, Any]) -> tuple[list[Answer], list[Answer]]:
    """Good and bad answers of an encoded record."""
    if "chosen" in record:
        return [record["chosen"]], [record["rejected"]]
    if "ranks" in record:
        ordered = sorted(zip(record["ranks"], record["completions"], strict=True), key=lambda pair: pair[0])
        return [ordered[0][1]], [ordered[-1][1]]
    if "completion" not in record:
        return [], []
    answer = [record["completion"]]
    return (answer, []) if record.get("label", True) else ([], answer)


def _values(bench: Bench, stage: Stage, answers: Sequence[Answer]) -> list[Tensor]:
    policy = stage.models._roles["policy"]
    if bench.cls.head == "scalar":
        return [policy.scores(Answers(answers))]
    logps = policy.logps(Answers(answers))
    return [logps.sum(), logps.mean()]


def _advantage_of_steps(stage: Stage, records: Sequence[Mapping[str, Any]]) -> list[float]:
    answers = Answers([record["completion"] for record in records])
    scores = stage.models._roles["policy"].scores(answers, at=[record["step_ends"] for record in records])
    right = torch.tensor([label > 0 for record in records for label in record["labels"]])
    values = scores.per_step[scores.mask]
    return [float(values[right].mean() - values[~right].mean())]
