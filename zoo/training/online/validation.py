"""Validation of an online run: answers to held-out prompts, what they are worth, and how far the policy has gone."""

from __future__ import annotations

import math
from typing import Any

from zoo.processes import my_place
from zoo.training.online.scores import Seen, mean
from zoo.training.record import report
from zoo.training.record.report import printable

VALIDATION = -1
"""The iteration whose random numbers every validation uses, so that validations differ by the weights alone."""
SHOWN = 3
"""Answers of a rollout, or of a validation, that go into samples.jsonl."""
LONGEST = 160
"""Characters of a prompt or an answer that are printed."""


def validate(of: Any, step: int) -> dict[str, float]:
    """Rewards, length and distance from the start of answers to held-out prompts, as `val/…`. of: the `Rollouts`.

    The distance is the log-ratio of policy to `of.start` of whole answers, in nats, mean over answers.
    """
    state = of.algorithm.state()
    records = {record["row"]: record["record"] for record in of.held_out}
    policy = of.models.built("policy")
    with of.rolling(VALIDATION):
        answers = policy.generate(of.held_out, 1)
        found = {which: of.scored(which, answers, records) for which in of.rewards}
        columns = {which: scores.values for which, scores in found.items()}
        columns["length"], columns["cut"] = answers.lengths.tolist(), answers.cut.float().tolist()
        if of.start is not None:
            columns["kl"] = (policy.logps(answers).sum() - of.start.logps(answers).sum()).tolist()
        if "judge" in of.models:
            columns["grade"] = of.models.built("judge").rate(of.held_out, of.writer.texts(answers)).tolist()
    if of.start is not None and "reference" not in of.models:
        # Nothing but this needs it: its memory is free again until the next time.
        of.start.release()
    for which, scores in found.items():
        for reason, count in scores.failures.items():
            of.say(f"Validation: {count} of {len(answers)} of val/{which} are missing: {reason}")
    if of.run is not None and not my_place()[0]:
        cases = {name: [None if math.isnan(value) else value for value in column] for name, column in columns.items()}
        report.write_cases(of.run, step, cases)
    if found and not my_place()[0]:
        seen = Seen()
        seen.add(answers, of.writer.texts(answers), next(iter(found.values())).values, {})
        samples = seen.samples(records, SHOWN)
        of.keep("held-out", f"step {step}", samples)
        of.say(_line(samples[0]))
    of.algorithm.load_state(state)
    return {f"val/{name}": mean(column) for name, column in columns.items()}


def _line(sample: dict[str, Any]) -> str:
    """A held-out answer, to be read while the run goes on."""
    prompt = sample["prompt"] if isinstance(sample["prompt"], str) else sample["prompt"][-1]["content"]
    score = "no score" if sample["score"] is None else f"score {sample['score']:.3g}"
    return f"  {_short(prompt)}\n  → {_short(sample['answer'])} ({score}, {sample['length']} tokens)"


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
