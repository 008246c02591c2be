"""Labels by a reward: of two answers the one with the higher reward is chosen. Takes the place of a judge."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from zoo.judges.verdicts import Tally, Verdict
from zoo.judges.wording import as_text
from zoo.labelling.pairs import Cut, Pair
from zoo.rewards.reward import Reward
from zoo.rollout.weights import fingerprint


class ByReward:
    """text: a reward expression, as `zoo train --reward` takes it. Raises ZooError for what it cannot find.

    Pairs with equal rewards, or with an answer without one, have no verdict; `statistics` counts them.
    """

    def __init__(self, text: str, out: str, say: Any, max_new_tokens: int):
        from zoo.contract.registry import contributions, manager

        self.name, self.statistics = text, Tally()
        self.reward = Reward(
            text, contributions(manager(), "rewards"), out, say=say, patience=1, max_new_tokens=max_new_tokens
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a label of this reward tells about where it is from."""
        return {"reward": self.name}

    def fingerprint(self) -> str:
        """A hash of the weights of its reward models."""
        weights = [fingerprint(model) for model in self.reward.models]
        return hashlib.sha256(repr(weights).encode()).hexdigest()

    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """A verdict for each pair, certain in both orders."""
        answers = {(pair.group.row, as_text(a)): (pair.group, a) for pair in pairs for a in (pair.a, pair.b)}
        scored = self.reward.detailed(
            [text for _, text in answers],
            [{"prompt": group.prompt, **group.rest} for group, _ in answers.values()],
            [not isinstance(a, Cut) for _, a in answers.values()],
        )
        worth = dict(zip(answers, scored.values, strict=True))
        verdicts = [_verdict(*(worth[pair.group.row, as_text(a)] for a in (pair.a, pair.b))) for pair in pairs]
        for verdict in verdicts:
            self.statistics.add(verdict)
        return verdicts

    def close(self) -> None:
        self.reward.close()


def _verdict(first: float | None, second: float | None) -> Verdict:
    if first is None or second is None:
        return Verdict(math.nan, problem="an answer without a reward")
    if first == second:
        return Verdict(math.nan, problem="equal rewards")
    p = float(first > second)
    return Verdict(p, p, p)
