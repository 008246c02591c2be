"""A scalar head: the policy is a scorer, which gives a number to an answer, or one to each step of it.

The model is a sequence classifier of transformers with one output, so that what a run writes is a folder that
transformers loads. It starts from a causal language model: the backbone is kept, the head is drawn from
N(0, 1/(d + 1)), d being the hidden size. The head reads the last token of an answer (or of a step), in float32.

Comparisons leave scale and offset of a reward open. `normalize` fixes both; gain and bias stand in the model's
configuration under `reward_scale` and are applied by whatever scores with it here: r' = gain·r + bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.architecture import text_config
from zoo.libraries.turns import in_pass
from zoo.libraries.wrappers import base_of
from zoo.models.layout import counted
from zoo.models.scoring import balance_of, hidden_states, rows_for
from zoo.values.types import Answer, Answers, StepScores, TokenLogps, pad

PART_TOKENS = 4096
"""Tokens in one forward pass where many answers are scored without gradient."""


class ScalarPolicy:
    """The model that learns to score."""

    def __init__(self, model: Any, layout: str):
        self.model = model
        self.layout = layout
        self.balance = balance_of(model)

    @overload
    def scores(self, answers: Answers, /) -> Tensor: ...
    @overload
    def scores(self, answers: Answers, /, *, at: Sequence[Sequence[int]]) -> StepScores: ...
    @overload
    def scores(self, first: Answers, second: Answers, /) -> tuple[Tensor, Tensor]: ...
    @overload
    def scores(self, *answers: Answers) -> Tensor | tuple[Tensor, ...]: ...
    def scores(
        self, *answers: Answers, at: Sequence[Sequence[int]] | None = None
    ) -> Tensor | tuple[Tensor, ...] | StepScores:
        """The reward of each answer, float32 [B]: one tensor for one `Answers`, a tuple for several.

        at: for each answer of one `Answers`, positions in its completion; then the result is `StepScores`, the
        scores after these tokens. Answers of one prompt share its compute.
        """
        joined = [answer for part in answers for answer in part]
        if at is not None:
            return position_scores(self.model, joined, at, self.layout, self.balance)
        values = answer_scores(self.model, joined, self.layout, self.balance)
        parts = values.split([len(part) for part in answers])
        return parts[0] if len(parts) == 1 else tuple(parts)

    def normalize(self, answers: Sequence[Answer], mean: float = 0.0, std: float | None = None) -> None:
        """Shift the reward, and scale it if `std` is given, so that these answers get that mean (and std).

        The standard deviation is that of a population, as in lm-human-preferences.
        """
        values = torch.tensor(score_many(self.model, answers, self.layout), dtype=torch.float64)
        spread = float(values.std(correction=0))
        if not len(values) or not math.isfinite(spread):
            raise ZooError("The reward cannot be normalised: its values on the sample are not finite numbers.")
        factor = 1.0 if std is None or spread == 0 else std / spread
        gain, bias = scale_of(self.model)
        set_scale(self.model, gain * factor, factor * (bias - float(values.mean())) + mean)

    def logps(self, *answers: Answers, **options: Any) -> Any:
        raise ZooError(
            "The policy of this algorithm has a scalar head, which gives scores and no log-probabilities.",
            'Use models.policy.scores(answers), or declare head = "lm".',
        )


# -- scores ------------------------------------------------------------------------------------------------------


def answer_scores(model: Any, answers: Sequence[Answer], layout: str, balance: int = 1024) -> Tensor:
    """The reward of each answer, read at its last token, float32 [B]."""
    last = [[len(answer.completion) - 1] for answer in answers]
    return position_scores(model, answers, last, layout, balance).per_step[:, 0]


def token_scores(model: Any, answers: Sequence[Answer], layout: str, balance: int = 1024) -> TokenLogps:
    """The reward at every counted token, in the shape of log-probs: the layout's self-test compares these."""
    every = [range(len(answer.completion)) for answer in answers]
    mask = counted(answers).to(next(model.parameters()).device)
    return TokenLogps(position_scores(model, answers, every, layout, balance).per_step * mask, mask)


def position_scores(
    model: Any, answers: Sequence[Answer], at: Sequence[Sequence[int]], layout: str, balance: int = 1024
) -> StepScores:
    """Rewards read at given positions of the completions of B answers, in their order, [B, S]."""
    device = next(model.parameters()).device
    mask = pad([torch.ones(len(places), dtype=torch.bool) for places in at], False).to(device)
    if not answers:
        return StepScores(torch.zeros(mask.shape, device=device), mask)
    rows = rows_for(model, answers, layout, balance)
    index = pad([torch.as_tensor(places, dtype=torch.long) for places in at], 0).to(device)
    behind = torch.tensor([[len(answer.prompt)] for answer in answers], device=device)
    place = (rows.home[:, None], rows.place.gather(1, behind + index))
    gain, bias = scale_of(model)
    values = gain * in_pass(model, lambda: head_values(model, hidden_states(model, rows)[place])) + bias
    return StepScores(torch.where(mask, values, 0.0), mask)


def head_values(model: Any, hidden: Tensor) -> Tensor:
    """The head's output, in float32 whatever the backbone's precision; hidden [..., D] → [...]."""
    head = base_of(model).score
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(hidden.float(), head.weight.float(), bias)[..., 0]


@torch.no_grad()
def score_many(
    model: Any,
    answers: Sequence[Answer],
    layout: str = "padded",
    at: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Any]:
    """Rewards of any number of answers as floats (with `at` a list for each answer), in parts, without gradient."""
    device, balance = next(model.parameters()).device, balance_of(model)
    found: list[Any] = [None] * len(answers)
    done = 0
    for part in _parts(answers):
        moved = [answers[i].to(device) for i in part]
        places = [[len(answers[i].completion) - 1] if at is None else at[i] for i in part]
        scores = position_scores(model, moved, places, layout, balance)
        for i, values, mask in zip(part, scores.per_step.cpu(), scores.mask.cpu(), strict=True):
            steps = values[mask].tolist()
            found[i] = steps[0] if at is None else steps
        done += len(part)
        if progress is not None:
            progress(done, len(answers))
    return found


def _parts(answers: Sequence[Answer]) -> Iterator[list[int]]:
    """Indices of answers of similar length, as many as fit into one forward pass as padded rows."""
    part: list[int] = []
    for i in sorted(range(len(answers)), key=lambda i: len(answers[i])):
        if part and (len(part) + 1) * len(answers[i]) > PART_TOKENS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


# -- head, scale and padding of a model --------------------------------------------------------------------------


def is_scorer(model: Any) -> bool:
    """Whether a model has a scalar head."""
    return hasattr(base_of(model), "score")


def start_head(model: Any, seed: int) -> None:
    """Draw a new head from N(0, 1/(d + 1)), so that the variance of a score is about 1."""
    head = base_of(model).score
    size = head.weight.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / math.sqrt(size + 1))
        if head.bias is not None:
            head.bias.zero_()


def scale_of(model: Any) -> tuple[float, float]:
    """Gain and bias of a reward model; 1 and 0 where none were set."""
    stored = getattr(base_of(model).config, "reward_scale", None) or {}
    return float(stored.get("gain", 1.0)), float(stored.get("bias", 0.0))


def set_scale(model: Any, gain: float, bias: float) -> None:
    base_of(model).config.reward_scale = {"gain": gain, "bias": bias}


def fold_scale(model: Any) -> None:
    """Multiply the head by the gain and drop the bias, so that training goes on without either."""
    gain, _ = scale_of(model)
    with torch.no_grad():
        base_of(model).score.weight.mul_(gain)
    set_scale(model, 1.0, 0.0)


def choose_padding(model: Any, tokenizer: Any, eos_ids: set[int]) -> bool:
    """Pad with a token that never ends an answer; returns False where the tokenizer has none.

    transformers reads the score at the last token that is not the padding token: were that the end of the turn,
    it would read the token before it.
    """
    if tokenizer.pad_token_id in eos_ids:
        others = [number for number in tokenizer.all_special_ids if number not in eos_ids]
        if not others:
            return False
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(others[-1])
    text_config(base_of(model)).pad_token_id = tokenizer.pad_token_id
    return True


def unit_of(model: Any) -> str:
    """What the model was trained to score: "answer", or "step" of an answer."""
    return str(getattr(base_of(model).config, "reward_unit", "answer"))


def set_unit(model: Any, unit: str) -> None:
    base_of(model).config.reward_unit = unit
