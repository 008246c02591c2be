"""The values that plugins and the core exchange.

`Answer` and `Answers` are token ids, `TokenLogps` are their log-probabilities, `Batch` is a set of named fields, and
`Loss` (in another module) has numerators and denominators. A batch can be split and reordered along its first axis,
so the core can split, shuffle and shard it without the plugin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from zoo.errors import ZooError, nearest
from zoo.values.loss import Loss, Metric, metric_sums
from zoo.values.top_logps import TopLogps

__all__ = [
    "Answer",
    "Answers",
    "Batch",
    "Episode",
    "Loss",
    "Metric",
    "Ragged",
    "StepScores",
    "TokenLogps",
    "TopLogps",
    "metric_sums",
    "pad",
]


@dataclass(frozen=True)
class Episode:
    """What happened in an environment, in an answer that is several turns.

    messages: after the prompt, those of the policy and of the environment, in order; reward: the sum of the
    environment's, None if it gave none; rewards: each with the position of the completion's token that it follows;
    failure: why the environment gave up, empty if it did not.
    """

    messages: list[dict[str, Any]]
    reward: float | None = None
    rewards: list[tuple[int, float]] = field(default_factory=list)
    failure: str = ""

    def reward_at(self, position: int) -> float:
        """What the environment gave for the turn that ends with this token of the completion."""
        return sum(reward for place, reward in self.rewards if place == position)


@dataclass(frozen=True)
class Answer:
    """One tokenised answer. Ids are never changed: nothing is re-tokenised.

    prompt: int64 [P]; completion: int64 [C], end-of-turn token included when the answer ended;
    mask: bool [C], the completion tokens that count; ended: whether it has its end-of-turn token;
    cut: whether tokens were removed to fit a length; behaviour: float32 [C], log-probs under the weights that wrote it;
    correction: float32 [C], importance weights for answers of an engine with slightly different log-probs;
    row: number of the data row of the prompt, by which a reward finds its columns; domain: that of its row, by which a
    role of several models chooses one; None where no role has several. episode: of an answer in an environment, whose
    tokens the mask leaves out.
    """

    prompt: Tensor
    completion: Tensor
    mask: Tensor
    ended: bool = True
    cut: bool = False
    behaviour: Tensor | None = None
    correction: Tensor | None = None
    row: int | None = None
    domain: str | None = None
    episode: Episode | None = None

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

    @property
    def rewarded_by_turn(self) -> bool:
        """Whether an environment gave rewards for its turns."""
        return self.episode is not None and self.episode.reward is not None

    def to(self, device: torch.device | str) -> Answer:
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


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
        """Log-probs under the weights that wrote the answers, float32 [B, T], zero past the end of an answer."""
        return pad([_required_behaviour(answer) for answer in self._answers], 0.0)

    @property
    def correction(self) -> Tensor:
        """The weight for the loss of each token, float32 [B, T]; 1 except for answers of a remote engine."""
        return pad([_correction(answer) for answer in self._answers], 1.0)

    @property
    def mask(self) -> Tensor:
        """Counted completion tokens, bool [B, T]."""
        return pad([answer.mask for answer in self._answers], False)


def _required_behaviour(answer: Answer) -> Tensor:
    if answer.behaviour is None:
        raise ZooError(
            "These answers have no log-probs of a sampler.", "Only answers from models.policy.generate have them."
        )
    return answer.behaviour


def _correction(answer: Answer) -> Tensor:
    return torch.ones_like(answer.completion, dtype=torch.float32) if answer.correction is None else answer.correction


def pad(rows: Sequence[Tensor], value: float | bool) -> Tensor:
    """Rows of unequal length, padded on the right, [B, T]; T is at least 1 so that sums are defined."""
    width = max([1, *(len(row) for row in rows)])
    out = rows[0].new_full((len(rows), width), value) if rows else torch.full((0, 1), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


class TokenLogps:
    """Log-probabilities of the completion tokens of B answers.

    per_token: float32 [B, T], zero where mask is False; mask: bool [B, T]. entropy is computed on
    request; neither it nor likeliest is known for scores that come from a cache.
    """

    def __init__(self, per_token: Tensor, mask: Tensor, entropy: Tensor | None = None, likeliest: Tensor | None = None):
        self.per_token, self.mask = per_token, mask
        self.computed = {"entropy": entropy, "likeliest": likeliest}
        """By name, None for what was not computed."""

    @property
    def entropy(self) -> Tensor:
        """Of the distribution that each token was drawn from, float32 [B, T]. Raises ZooError if not asked for."""
        return self._computed("entropy", "Ask for it: models.policy.logps(answers, entropy=True).")

    @property
    def likeliest(self) -> Tensor:
        """Whether no other token had a higher probability, bool [B, T]. Raises ZooError if not known."""
        return self._computed("likeliest", "It is known of log-probs in `loss`, and not of those from a cache.")

    def _computed(self, name: str, hint: str) -> Tensor:
        value = self.computed[name]
        if value is None:
            raise ZooError(f"These log-probs have no '{name}'.", hint)
        return value

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


@dataclass
class StepScores:
    """Scores of the steps of B answers. per_step: float32 [B, S], zero where mask is False; mask: bool [B, S]."""

    per_step: Tensor
    mask: Tensor


class Ragged:
    """Numbers for every completion token of B answers, as a field of a `Batch`.

    `Ragged(values, answers)`, values [B, T]. As a field of a batch it gives a tensor [B, T], zero past the end of an
    answer and as wide as the longest answer that is still in the batch, like `Answers.mask`.
    """

    def __init__(self, values: Sequence[Tensor] | Tensor, answers: Answers | None = None):
        lengths = [len(row) for row in values] if answers is None else [len(a.completion) for a in answers]
        if len(values) != len(lengths):
            raise ValueError(f"There are {len(values)} rows of numbers for {len(lengths)} answers.")
        self.rows = [row[:length].detach() for row, length in zip(values, lengths, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int]) -> Ragged:
        return Ragged([self.rows[i] for i in indices])

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged([row.to(device) for row in self.rows])

    @property
    def padded(self) -> Tensor:
        return pad(self.rows, 0.0)


class Batch(Mapping[str, Any]):
    """Named fields of one length: `Batch(chosen=Answers, rejected=Answers, margin=tensor)`.

    Every field has the batch on its first axis: a tensor, `Answers`, `Ragged`, a list, or a `Batch`. `measured` holds
    the results of the algorithm's `measure` hook over the whole optimizer step; `on_policy` says that the policy still
    has the weights which wrote the answers, so that its log-probs are the old ones. optional: fields that are None if
    the data does not have them.
    """

    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **values: Any):
        if not values:
            raise ValueError("A Batch needs at least one field.")
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"All fields of a Batch must have the same length, got {lengths}.")
        self._values = values
        self.measured: dict[str, Tensor] = {}
        self.on_policy = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            # Copying also asks for attributes, before there are any values.
            raise AttributeError(name)
        if name not in self._values:
            if name in self.optional:
                return None
            guess = nearest(name, [*self._values, *self.optional])
            raise AttributeError(f"The batch has no field '{name}', only {sorted(self._values)}.{guess}")
        return self[name]

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        return value.padded if isinstance(value, Ragged) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        """The number of examples (not of fields: a Batch is as long as its rows)."""
        return len(next(iter(self._values.values())))

    def numbers(self, name: str, like: Tensor, default: float) -> Tensor:
        """Field `name`, a number that examples may lack, in the type of `like` [B]; `default` where it is missing."""
        if name not in self._values:
            return torch.full_like(like, default)
        return self._values[name].to(like).nan_to_num(default)

    def select(self, indices: Sequence[int]) -> Self:
        """The rows at `indices`, in that order; facts about the whole step are kept."""
        chosen = type(self)(**{name: _select(value, indices) for name, value in self._values.items()})
        chosen.measured, chosen.on_policy = self.measured, self.on_policy
        return chosen

    def to(self, device: torch.device | str) -> Self:
        moved = type(self)(**{n: v.to(device) if hasattr(v, "to") else v for n, v in self._values.items()})
        moved.measured = {n: v.to(device) for n, v in self.measured.items()}
        moved.on_policy = self.on_policy
        return moved

    @property
    def fields(self) -> Mapping[str, Any]:
        """The stored fields; `Ragged` fields are not padded."""
        return self._values


def _select(value: Any, indices: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[torch.as_tensor(indices, dtype=torch.long, device=value.device)]
    if isinstance(value, (Answers, Batch, Ragged, TopLogps)):
        return value.select(indices)
    return [value[i] for i in indices]
