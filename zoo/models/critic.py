"""The critic: the value of the state before each token of an answer.

Of its own: a sequence classifier of transformers with one output, which starts from the policy's weights with a head of
zeros, or from a reward model with that one's head. As a head: one linear layer on the policy's last hidden states,
zeros at the start too, as in lm-human-preferences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.architecture import text_config
from zoo.libraries.turns import in_pass
from zoo.libraries.wrappers import base_of
from zoo.models.layout import Rows, counted
from zoo.models.parts import rows_in_parts
from zoo.models.roles import Policy
from zoo.models.scalar import head_values
from zoo.models.scoring import balance_of, predicting_states
from zoo.values.types import Answer, Answers, pad


class ValueHead(torch.nn.Module):
    """One number from a hidden state, 0 before training."""

    def __init__(self, size: int):
        super().__init__()
        self.score = torch.nn.Linear(size, 1)
        torch.nn.init.zeros_(self.score.weight)
        torch.nn.init.zeros_(self.score.bias)

    @staticmethod
    def on(model: Any) -> ValueHead:
        """A head that fits a model's hidden states, on its device."""
        head = ValueHead(text_config(base_of(model)).hidden_size)
        return head.to(next(model.parameters()).device)


class Critic:
    """The model of state values, trained beside the policy.

    backbone: what gives the states, the role of the policy or a model of its own in rows of `layout`; head: what has
    the trained `score`, that model or a `ValueHead`. micro_tokens: as of `zoo.models.scorer.Scorer`.
    """

    micro_tokens: int | None = None

    def __init__(self, backbone: Any, head: Any, layout: str):
        self.policy = backbone if isinstance(backbone, Policy) else None
        self.model = backbone if self.policy is None else self.policy.model
        self.head, self.layout = head, layout
        self.balance = balance_of(self.model)
        if self.policy is not None:
            self.policy.share_states()

    def values(self, answers: Answers) -> Tensor:
        """V of the state before each completion token, float32 [B, T], 0 where no token counts."""
        if self.micro_tokens is None:
            return self._values(answers)
        device = answers[0].completion.device
        return pad(self._in_parts(answers), 0.0).to(device)

    @torch.no_grad()
    def _in_parts(self, answers: Answers) -> list[Tensor]:
        assert self.micro_tokens is not None
        return rows_in_parts(
            lambda part: [row[: len(a.completion)] for row, a in zip(self._values(part), part, strict=True)],
            answers, self.micro_tokens,
        )  # fmt: skip

    def _values(self, answers: Sequence[Answer]) -> Tensor:
        mask = counted(answers)
        device = next(self.model.parameters()).device
        # The position that predicts a token has seen all tokens before it: this is the state in which it is chosen.
        rows, values = self._of_head(answers) if self.policy is not None else self._of_model(answers)
        empty = torch.zeros(mask.shape, dtype=torch.float32, device=device)
        return empty.index_put((rows.answer, rows.index), values)

    def _of_head(self, answers: Sequence[Answer]) -> tuple[Rows, Tensor]:
        assert self.policy is not None
        rows, hidden = self.policy.states(answers)
        return rows, head_values(self.head, hidden)

    def _of_model(self, answers: Sequence[Answer]) -> tuple[Rows, Tensor]:
        def states_and_values() -> tuple[Rows, Tensor]:
            rows, hidden = predicting_states(self.model, answers, self.layout, self.balance)
            return rows, head_values(self.head, hidden)

        return in_pass(self.model, states_and_values)
