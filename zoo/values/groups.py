"""Groups of answers to one prompt: written, compared with each other, and scored step by step.

Rewards are [P, G], those of G answers to each of P prompts, with NaN for one that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.values.rl import to_go
from zoo.values.types import Answers


def sample_groups(
    prompts: Sequence[Any], policy: Any, score: Callable[..., Tensor], rounds: int = 0
) -> tuple[Answers, Tensor, int]:
    """A group of answers to each prompt, their rewards as float64, and how many groups were written for them.

    rounds: so often flat groups give way at most to other prompts (dynamic sampling, section 3.2 of arXiv:2503.14476),
    or are written again where the data has no others left.
    """
    answers = policy.generate(prompts)
    rewards = score(answers).double().view(len(prompts), -1).clone()
    written, size, every = len(prompts), rewards.shape[1], list(answers)
    current, asked = list(prompts), list(prompts)
    for _ in range(rounds):
        flat = torch.nonzero(flat_groups(rewards)).flatten().tolist()
        if not flat:
            break
        others = policy.more_prompts(len(flat), besides=asked)
        asked += others
        for i, prompt in zip(flat, others, strict=False):
            current[i] = prompt
        again = policy.generate([current[i] for i in flat])
        former = Answers([every[i * size + j] for i in flat for j in range(size)])
        rewards[flat] = score(again, instead_of=former).double().view(len(flat), -1)
        for place, i in enumerate(flat):
            every[i * size : (i + 1) * size] = again[place * size : (place + 1) * size]
        written += len(flat)
    return Answers(every), rewards, written


def flat_groups(rewards: Tensor) -> Tensor:
    """Groups with nothing to learn, whose rewards are equal or missing, bool [P]."""
    return (group_advantages(rewards, scale="none") == 0).all(1)


def group_advantages(
    rewards: Tensor,
    baseline: Literal["group", "leave_one_out", "none"] = "group",
    scale: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> Tensor:
    """(r − mean) / (std + ε) of every group; rewards [P, G] → float64 [P, G], 0 where a reward is missing (NaN).

    baseline: the mean of the group, of the others in it, or nothing; scale: what is divided by, the standard deviation
    (of a sample) of the group, of all rewards, or nothing. With a baseline a group of equal rewards gives exactly 0.
    """
    rewards, known = rewards.double(), ~rewards.isnan()
    count = known.sum(1, keepdim=True)
    others = (count - 1).clamp(min=1)
    centred = torch.where(known, rewards - rewards.nanmean(1, keepdim=True), 0.0)
    divisor: Tensor | float = 1.0
    if scale == "group":
        divisor = ((centred**2).sum(1, keepdim=True) / others).sqrt() + epsilon
    elif scale == "batch":
        divisor = _deviation(rewards[known], epsilon)
    if baseline == "none":
        return torch.where(known, rewards, 0.0) / divisor
    if baseline == "leave_one_out":
        # r_i less the mean of the others.
        centred = centred * count / others
    # The mean of equal numbers is rounded, and a small ε would make full-size advantages of what is left.
    equal = rewards.nan_to_num(-torch.inf).amax(1) <= rewards.nan_to_num(torch.inf).amin(1)
    return (centred / divisor).masked_fill(equal[:, None] | ~known, 0.0)


def step_rewards(
    answers: Answers, rewards: Tensor, step_ends: Sequence[Sequence[int]], score: Callable[..., Tensor]
) -> list[Tensor]:
    """Rewards of the steps of each answer, [S]: its own reward at the last, the score of the answer so far before.

    rewards: those of the whole answers, [B]; step_ends: as `step_advantages` has them.
    """
    begun = Answers([
        replace(
            one, completion=one.completion[: end + 1], mask=one.mask[: end + 1], ended=False, cut=False, behaviour=None,
            correction=None,
        )
        for one, places in zip(answers, step_ends, strict=True) for end in places[:-1]
    ])  # fmt: skip
    scores = score(begun, unfinished=True).to(rewards) if len(begun) else rewards.new_zeros(0)
    before = scores.split([len(places) - 1 for places in step_ends])
    return [torch.cat([first, last[None]]) for first, last in zip(before, rewards, strict=True)]


def step_advantages(
    step_rewards: Sequence[Tensor], step_ends: Sequence[Sequence[int]], epsilon: float = 1e-4
) -> list[Tensor]:
    """Advantages of tokens from rewards of steps, for the answers of one group: float64 [C] for each.

    All step rewards of the group are normalised together; a token gets the sum of those of the steps that end with it
    or later. step_ends: position of the last token of each step, the last of which ends the answer.
    """
    every = torch.cat(list(step_rewards)).double()
    known = every[~every.isnan()]
    found = []
    for rewards, ends in zip(step_rewards, step_ends, strict=True):
        equal = len(known) == 0 or bool(known.max() == known.min())
        normal = (rewards.double() - known.mean()) / _deviation(known, epsilon) * (0.0 if equal else 1.0)
        to_come = to_go(normal.nan_to_num(0.0))
        lengths = torch.tensor(ends, device=rewards.device).diff(prepend=torch.tensor([-1], device=rewards.device))
        found.append(to_come.repeat_interleave(lengths))
    return found


def _deviation(values: Tensor, epsilon: float) -> Tensor | float:
    """Standard deviation of a sample + ε; 1 where all are equal."""
    return values.std() + epsilon if len(values) > 1 and bool(values.max() > values.min()) else 1.0
