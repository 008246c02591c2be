"""The values that plugins and the core hand to each other.

`Answer` and `Answers` are token ids, `TokenLogps` what a model says of them, `Batch` a named bag of them, `Loss`
(in a module of its own) numerators and denominators. A batch can be cut and put in another order along the first
axis, so that the core may split, shuffle and shard it without asking the plugin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError, nearest
from zoo.loss import Loss, Metric, metric_sums

__all__ = [
    "Answer",
    "Answers",
    "Batch",
    "Loss",
    "Metric",
    "TokenLogps",
    "metric_sums",
    "missing_role",
    "pad",
]


@dataclass(frozen=True)
class Answer:
    """One tokenised answer. Ids are kept as they came: nothing is ever re-tokenised.

    prompt: int64 [P]; completion: int64 [C], end-of-turn token included when the answer ended;
    mask: bool [C], the completion tokens that count; ended: the end-of-turn token is there;
    cut: tokens were removed to fit a length; behaviour: float32 [C], log-probs of the sampler.
    """

    prompt: Tensor
    completion: Tensor
    mask: Tensor
    ended: bool = True
    cut: bool = False
    behaviour: Tensor | None = None

    @staticmethod
    def of(prompt: Sequence[int], completion: Sequence[int], mask: Sequence[bool] | None = None, **rest: Any) -> Answer:
        """An answer from plain lists; without a mask every completion token counts."""
        return Answer(
            torch.as_tensor(prompt, dtype=torch.long),
            torch.as_tensor(completion, dtype=torch.long),
            torch.ones(len(completion), dtype=torch.bool) if mask is None else torch.as_tensor(mask, dtype=torch.bool),
            **rest,
        )

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    def to(self, device: torch.device | str) -> Answer:
        moved = {name: getattr(self, name).to(device) for name in ("prompt", "completion", "mask")}
        behaviour = None if self.behaviour is None else self.behaviour.to(device)
        return replace(self, behaviour=behaviour, **moved)


class Answers(Sequence[Answer]):
    """A ragged list of `Answer`, the unit that models score."""

    def __init__(self, answers: Sequence[Answer]):
        self._answers = list(answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers)

    def __getitem__(self, index: Any) -> Any:
        return Answers(self._answers[index]) if isinstance(index, slice) else self._answers[index]

    def select(self, indices: Sequence[int]) -> Answers:
        return Answers([self._answers[i] for i in indices])

    def to(self, device: torch.device | str) -> Answers:
        return Answers([answer.to(device) for answer in self._answers])

    @property
    def prompts(self) -> list[Tensor]:
        return [answer.prompt for answer in self._answers]

    @property
    def completions(self) -> list[Tensor]:
        return [answer.completion for answer in self._answers]

    @property
    def ended(self) -> Tensor:
        """Whether each answer has its end-of-turn token, bool [B]."""
        return torch.tensor([answer.ended for answer in self._answers], dtype=torch.bool)

    @property
    def cut(self) -> Tensor:
        """Whether each answer lost tokens to a length limit, bool [B]."""
        return torch.tensor([answer.cut for answer in self._answers], dtype=torch.bool)

    @property
    def lengths(self) -> Tensor:
        """Counted completion tokens of each answer, int64 [B]."""
        return torch.tensor([int(answer.mask.sum()) for answer in self._answers], dtype=torch.long)

    @property
    def behaviour(self) -> Tensor:
        """Log-probs of the sampler, float32 [B, T], zero past the end of an answer."""
        return pad([_required_behaviour(answer) for answer in self._answers], 0.0)

    @property
    def mask(self) -> Tensor:
        """Counted completion tokens, bool [B, T]."""
        return pad([answer.mask for answer in self._answers], False)


def _required_behaviour(answer: Answer) -> Tensor:
    if answer.behaviour is None:
        raise ZooError(
            "These answers carry no log-probs of a sampler.", "Only answers from models.policy.generate have them."
        )
    return answer.behaviour


def pad(rows: Sequence[Tensor], value: float | bool) -> Tensor:
    """Rows of unequal length, padded on the right, [B, T]; T is at least 1 so that sums are defined."""
    width = max([1, *(len(row) for row in rows)])
    out = rows[0].new_full((len(rows), width), value) if rows else torch.full((0, 1), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@dataclass
class TokenLogps:
    """Log-probabilities of the completion tokens of B answers.

    per_token: float32 [B, T], zero where mask is False; mask: bool [B, T]; entropy: float32 [B, T], on request;
    likeliest: bool [B, T], whether no other token had a higher probability (None where scores came from a cache).
    """

    per_token: Tensor
    mask: Tensor
    entropy: Tensor | None = None
    likeliest: Tensor | None = None

    def sum(self) -> Tensor:
        """log π(y|x), [B]."""
        return (self.per_token * self.mask).sum(-1)

    def mean(self) -> Tensor:
        """log π(y|x) / |y|, [B]; 0 for an answer without counted tokens."""
        return self.sum() / self.lengths.clamp(min=1)

    @property
    def lengths(self) -> Tensor:
        """|y| of each answer, [B]."""
        return self.mask.sum(-1)


class Batch(Mapping[str, Any]):
    """A named bag with a length: `Batch(chosen=Answers, rejected=Answers, margin=tensor)`.

    Every field has the batch on its first axis: a tensor, `Answers`, a list, or a `Batch`. `measured` holds what
    the algorithm's `measure` hook found over the whole optimizer step.
    """

    def __init__(self, **values: Any):
        if not values:
            raise ValueError("A Batch needs at least one field.")
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"All fields of a Batch must have one length, got {lengths}.")
        self._values = values
        self.measured: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            # Also what copying asks for before there are any values.
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"The batch has no field '{name}', only {sorted(self._values)}.{nearest(name, self)}")
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        """The number of examples (not of fields: a Batch is as long as its rows)."""
        return len(next(iter(self._values.values())))

    def select(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`, in that order; `measured` goes along."""
        chosen = Batch(**{name: _select(value, indices) for name, value in self._values.items()})
        chosen.measured = self.measured
        return chosen

    def to(self, device: torch.device | str) -> Batch:
        moved = Batch(**{n: v.to(device) if hasattr(v, "to") else v for n, v in self._values.items()})
        moved.measured = {n: v.to(device) for n, v in self.measured.items()}
        return moved


def _select(value: Any, indices: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[torch.as_tensor(indices, dtype=torch.long, device=value.device)]
    if isinstance(value, (Answers, Batch)):
        return value.select(indices)
    return [value[i] for i in indices]


def missing_role(role: str, declared: Sequence[str]) -> ZooError:
    """The error for touching a role that the algorithm did not declare."""
    return ZooError(
        f"The algorithm uses the role '{role}' but declares needs = {tuple(declared)}.{nearest(role, declared)}",
        f'Add "{role}" to its needs.',
    )
