"""What a reward says of answers, shared out among the processes of a run and gathered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from zoo.errors import ZooError
from zoo.models.parts import gathered, my_place
from zoo.rewards.reward import Reward, Scored
from zoo.rollout.writer import Writer
from zoo.types import Answers


class Scores(NamedTuple):
    """Of B answers. values: B numbers, NaN where missing; parts: the same for each reward in a sum; failures: how many
    are missing by reason."""

    values: list[float]
    parts: dict[str, list[float]]
    failures: Counter[str]


def shared_scores(reward: Reward, answers: Answers, records: Mapping[int, Any], writer: Writer) -> Scores:
    """The rewards of answers by the records of their rows, the same on every process. Raises ZooError."""
    rank, processes = my_place()
    start, stop = (len(answers) * (rank + k) // processes for k in (0, 1))
    mine = answers[start:stop]
    found, error = Scored([], {}, []), None
    try:
        found = reward.detailed(
            writer.texts(mine), [records[answer.row] for answer in mine], [answer.ended for answer in mine],
            [len(answer.completion) for answer in mine],
        )  # fmt: skip
    except ZooError as raised:
        # The other processes, whose answers may be fine, wait for this one.
        error = raised
    shares = gathered((found.values, found.parts, found.failures, error))
    if error := next((share[3] for share in shares if share[3]), None):
        raise error
    failures: Counter[str] = Counter()
    for share in shares:
        failures.update(share[2])
    return Scores(
        [_number(value) for share in shares for value in share[0]],
        {name: [_number(value) for share in shares for value in share[1][name]] for name in found.parts},
        failures,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
