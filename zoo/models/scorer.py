"""A role that scores answers: log-probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from zoo.models.parts import logps_in_parts
from zoo.models.scoring import balance_of, score_answers, split
from zoo.values.types import Answer, Answers, TokenLogps


class Scorer:
    """A model that gives log-probs of answers.

    temperature: divides the logits where a call names none, that of the run's sampling in an online run. micro_tokens:
    while a rollout is made, the tokens of one forward pass; its answers are then scored in parts, shared out among the
    processes.
    """

    micro_tokens: int | None = None

    def __init__(self, model: Any, layout: str, temperature: float = 1.0):
        self.model = model
        self.layout = layout
        self.temperature = temperature
        self.balance = balance_of(model)

    @overload
    def logps(
        self, answers: Answers, /, *, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps: ...
    @overload
    def logps(
        self, first: Answers, second: Answers, /, *, temperature: float | None = None, entropy: bool = False,
        noise: float = 0.0,
    ) -> tuple[TokenLogps, TokenLogps]: ...  # fmt: skip
    @overload
    def logps(
        self, first: Answers, second: Answers, third: Answers, /, *more: Answers, temperature: float | None = None,
        entropy: bool = False, noise: float = 0.0,
    ) -> tuple[TokenLogps, ...]: ...  # fmt: skip
    def logps(
        self, *answers: Answers, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps | tuple[TokenLogps, ...]:
        """`TokenLogps` of each argument: one for one, a tuple for several. Answers of one prompt share its compute.

        temperature: divides the logits. entropy: of each token too. noise: NEFTune's α, on the embeddings in training.
        """
        joined = [answer for part in answers for answer in part]
        options = {"temperature": temperature or self.temperature, "entropy": entropy, "noise": noise}
        if self.micro_tokens is None:
            scored = self._score(joined, **options)
        else:
            scored = logps_in_parts(lambda part: self._score(part, **options), joined, self.micro_tokens)
        parts = split(scored, answers)
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        return score_answers(self.model, answers, self.layout, balance=self.balance, **options)
