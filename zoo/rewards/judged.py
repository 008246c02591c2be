"""A judge as a reward: `judge(model=…)` grades or verifies an answer, `rubric(criteria=…)` checks it for criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.judges.judge import Judge
from zoo.judges.make import make_judge
from zoo.judges.verdicts import as_reward
from zoo.rewards.functions import Say
from zoo.rewards.judge_options import JudgedOptions, JudgeOptions, RubricOptions
from zoo.rewards.missing import Missing
from zoo.rewards.references import references_of
from zoo.rewards.rubric import is_file, load_rubric, rubric_of, score
from zoo.terminal import Slow

Values = list[float | None | Missing]


class JudgeReward:
    """The judge's mark of an answer: a grade from −1 (the lowest) to 1, or the probability that it is right."""

    def __init__(self, judge: Judge, options: JudgeOptions):
        self.judge, self.options = judge, options

    def __call__(self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], say: Say) -> Values:
        self.judge.progress = _told(self.judge, say)
        values: Values = [None] * len(completions)
        asked: dict[int, dict[str, Any]] = {}
        for i, (text, record) in enumerate(zip(completions, records, strict=True)):
            asked[i] = {"prompt": record["prompt"], "answer": text}
            if self.options.ask == "matches":
                references = references_of(record)
                if isinstance(references, Missing):
                    values[i] = references
                    del asked[i]
                else:
                    asked[i]["reference"] = "\nor: ".join(references)
        asking = self.options.asking
        for i, mark in zip(asked, self.judge.mark(self.options.task, list(asked.values()), asking), strict=True):
            value = as_reward(mark.value, asking.low, asking.high) if self.options.ask == "grade" else mark.value
            values[i] = Missing(mark.problem) if mark.problem else value
        return values


class RubricReward:
    """The score of an answer by a rubric; missing if a criterion has no verdict.

    details: of the last batch, for each criterion of a file the probability that it holds for each answer.
    """

    def __init__(self, judge: Judge, options: RubricOptions):
        self.judge, self.options = judge, options
        self.rubric = load_rubric(options.criteria) if is_file(options.criteria) else None
        self.details: dict[str, list[float | None]] = {}

    def __call__(self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], say: Say) -> Values:
        self.judge.progress = _told(self.judge, say)
        rubrics = [self.rubric or rubric_of(record, self.options.criteria) for record in records]
        asked = [
            {"prompt": record["prompt"], "answer": text, "criterion": criterion.text}
            for text, record, rubric in zip(completions, records, rubrics, strict=True)
            for criterion in ([] if isinstance(rubric, Missing) else rubric)
        ]
        marks = iter(self.judge.mark("criterion", asked, self.options.asking))
        self.details = {criterion.id: [] for criterion in self.rubric or ()}
        values: Values = []
        for rubric in rubrics:
            if isinstance(rubric, Missing):
                values.append(rubric)
                continue
            own = [next(marks) for _ in rubric]
            met = [float(mark.value > 0.5) if self.options.binary else mark.value for mark in own]
            for column, share, mark in zip(self.details.values(), met, own, strict=False):
                column.append(None if mark.problem else share)
            problem = next((mark.problem for mark in own if mark.problem), "")
            reached = score(rubric, met)
            clipped = min(max(reached, 0.0), 1.0) if self.options.clip else reached
            values.append(Missing(f"a criterion has no verdict: {problem}") if problem else clipped)
        return values


def _told(judge: Judge, say: Say) -> Slow:
    return Slow(say, f"Questions that {judge.name} has answered")


def judged_reward(options: JudgedOptions, **settings: Any) -> JudgeReward | RubricReward:
    """The reward of such options. settings: further arguments of `make_judge`. Raises ZooError."""
    judge = make_judge(options.model, **options.of_judge, **settings)
    if isinstance(options, RubricOptions):
        return RubricReward(judge, options)
    assert isinstance(options, JudgeOptions)
    return JudgeReward(judge, options)
