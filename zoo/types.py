"""The values that plugins and the core hand to each other.

`Answer` and `Answers` are token ids, `TokenLogps` what a model says of them, `Batch` a named bag of them,
`Loss` numerators and denominators. All can be cut and put in another order along the first axis, so that the
core may split, shuffle and shard a batch without asking the plugin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError, nearest


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
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"The batch has no field '{name}', only {sorted(self._values)}.")
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


Metric = Tensor | tuple[Tensor, Tensor]
"""Values alone, or values with their weights; NaN values are left out of the mean."""


@dataclass
class Loss:
    """Numerators, never means: the core divides by the denominator of the whole optimizer step.

    values: any shape; weights: the same shape. The step's loss is Σ values·weights / Σ weights, both sums over
    every micro-batch and process.
    """

    values: Tensor
    weights: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)

    @staticmethod
    def per_example(values: Tensor, metrics: dict[str, Metric] | None = None) -> Loss:
        """Mean over examples; values [B]."""
        if values.ndim != 1:
            raise ValueError(f"Loss.per_example takes one value per example, [B], got {tuple(values.shape)}.")
        return Loss(values, torch.ones_like(values), metrics or {})

    @staticmethod
    def per_token(values: Tensor, mask: Tensor, metrics: dict[str, Metric] | None = None) -> Loss:
        """Mean over the tokens under the mask; values and mask [B, T].

        Metrics of the same shape are means over the same tokens.
        """
        if values.shape != mask.shape:
            raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} differ in shape.")
        masked = {
            name: (value, mask) if isinstance(value, Tensor) and value.shape == mask.shape else value
            for name, value in (metrics or {}).items()
        }
        return Loss(torch.where(mask.bool(), values, 0.0), mask.to(values.dtype), masked)

    @staticmethod
    def weighted(values: Tensor, weights: Tensor, metrics: dict[str, Metric] | None = None) -> Loss:
        """Weighted mean; values and weights of one shape."""
        if values.shape != weights.shape:
            raise ValueError(f"values {tuple(values.shape)} and weights {tuple(weights.shape)} differ in shape.")
        return Loss(values, weights.detach().to(values.dtype), metrics or {})

    @property
    def numerator(self) -> Tensor:
        return (self.values * self.weights).sum()

    @property
    def denominator(self) -> Tensor:
        return self.weights.sum()

    def mean(self) -> Tensor:
        """The loss as if this were the whole step: what formula tests look at."""
        return self.numerator / self.denominator.clamp(min=torch.finfo(self.weights.dtype).tiny)


def metric_sums(metrics: Mapping[str, Metric]) -> dict[str, tuple[Tensor, Tensor]]:
    """Weighted sum and weight of every metric, float64 scalars; NaN entries are missing, not zero."""
    sums = {}
    for name, metric in metrics.items():
        values, weights = (
            metric if isinstance(metric, tuple) else (metric, torch.ones_like(metric, dtype=torch.float64))
        )
        values = values.detach().double()
        weights = weights.detach().double() * ~values.isnan()
        # Infinity is a result and stays one, except where nothing counts it.
        sums[name] = (torch.where(weights == 0, 0.0, values * weights).sum(), weights.sum())
    return sums


def field_names(value: Any) -> list[str]:
    """Names of a dataclass's fields."""
    return [f.name for f in fields(value)]


def missing_role(role: str, declared: Sequence[str]) -> ZooError:
    """The error for touching a role that the algorithm did not declare."""
    return ZooError(
        f"The algorithm uses the role '{role}' but declares needs = {tuple(declared)}.{nearest(role, declared)}",
        f'Add "{role}" to its needs.',
    )
