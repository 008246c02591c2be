"""Validation of an online run: answers to held-out prompts, their rewards, and the distance from the start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoo.environments import answer_in
from zoo.evals.kept_scores import HELD_OUT
from zoo.numbers import amount
from zoo.processes import is_first
from zoo.training.online.rollouts import Rollouts
from zoo.training.online.scores import SHOWN, Seen, mean
from zoo.training.record import report
from zoo.training.record.report import printable

VALIDATION = -1
"""The iteration whose random numbers every validation uses: only the weights make validations differ."""
LONGEST = 160
"""Characters of a prompt or an answer that are printed."""


def validate(rollouts: Rollouts, prompts: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    """Rewards, length and distance from the start of answers to held-out prompts, as `val/…`.

    The distance is the log-ratio of policy to `rollouts.start` of whole answers, in nats, mean over answers.
    """
    models, writer, start = rollouts.models, rollouts.writer, rollouts.start
    state = rollouts.algorithm.state()
    records = {record["row"]: record["record"] for record in prompts}
    policy = models.built("policy")
    with rollouts.rolling(VALIDATION):
        answers = policy.generate(prompts, 1)
        scores = {which: rollouts.scored(which, answers, records) for which in rollouts.rewards}
        columns = {which: of_reward.values for which, of_reward in scores.items()}
        columns["length"], columns["cut"] = answers.lengths.tolist(), answers.cut.float().tolist()
        if start is not None:
            columns["kl"] = (policy.logps(answers).sum() - start.logps(answers).sum()).tolist()
        if "judge" in models:
            columns["grade"] = models.built("judge").rate(prompts, writer.texts(answers)).tolist()
    if start is not None and "reference" not in models:
        # Only validation needs it: its memory is free until the next one.
        start.release()
    for which, of_reward in scores.items():
        for reason, count in of_reward.failures.items():
            rollouts.say(f"Validation: {count} of {len(answers)} of val/{which} are missing: {reason}")
    if rollouts.run is not None and is_first():
        cases = {name: [None if math.isnan(value) else value for value in column] for name, column in columns.items()}
        report.write_cases(rollouts.run, step, cases)
    if scores and is_first():
        seen = Seen()
        seen.add(answers, writer.texts(answers), next(iter(scores.values())).values, {})
        samples = seen.samples(records, SHOWN)
        rollouts.keep(HELD_OUT, f"step {step}", samples)
        rollouts.say(_line(samples[0]))
    rollouts.algorithm.load_state(state)
    values = {f"val/{name}": mean(column) for name, column in columns.items()}
    if rollouts.held_out_mixed is not None:
        of_parts = {f"val/{name}": column for name, column in columns.items()}
        values |= rollouts.held_out_mixed.means(of_parts, [answer.row for answer in answers])
    return values


def _line(sample: dict[str, Any]) -> str:
    """A held-out answer, for whoever watches the run."""
    prompt = sample["prompt"] if isinstance(sample["prompt"], str) else sample["prompt"][-1]["content"]
    score = "no score" if sample["score"] is None else f"score {sample['score']:.3g}"
    return f"  {_short(prompt)}\n  → {_short(answer_in(sample))} ({score}, {amount(sample['length'], 'token')})"


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
