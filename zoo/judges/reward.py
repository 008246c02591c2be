"""A judge as a reward: `judge(model=…)`, the expected grade of an answer, scaled to −1 … 1 (arXiv:2309.00267)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.judges.judge import Judge
from zoo.judges.make import make_judge
from zoo.judges.spelled import check_options
from zoo.judges.verdicts import as_reward
from zoo.models.default import NAME


class JudgeReward:
    """Grades answers from −1 (useless) to 1 (does what was asked, correctly and clearly); None without a grade."""

    def __init__(self, judge: Judge, chain_of_thought: bool = False):
        self.judge, self.chain_of_thought = judge, chain_of_thought

    def __call__(self, completions: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[float | None]:
        prompts = [record["prompt"] for record in records]
        grades = self.judge.rate(prompts, list(completions), chain_of_thought=self.chain_of_thought)
        return [None if math.isnan(value) else value for value in as_reward(grades).tolist()]


def judge_reward(options: Mapping[str, float | str], **settings: Any) -> JudgeReward:
    """The reward from the options in its brackets. settings: further arguments of `make_judge`. Raises ZooError.

    The option `model` is the judge, as in --judge (not self: a reward does not know the policy); default: the default
    model.
    """
    chain_of_thought = check_options(options)
    wording = str(options["wording"]) if "wording" in options else None
    judge = make_judge(str(options.get("model", NAME)), wording=wording, **settings)
    return JudgeReward(judge, chain_of_thought)
