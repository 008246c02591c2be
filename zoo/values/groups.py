"""Groups of answers to one prompt: sampling, relative advantages, and rewards of steps.

Rewards are [P, G], for G answers to each of P prompts, with NaN for a missing reward.
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
    """A group of answers to each prompt, their rewards as float64, and the number of groups that were written.

    rounds: how often, at most, groups with nothing to learn are replaced by groups for other prompts (dynamic sampling,
    section 3.2 of arXiv:2503.14476), or written again if the data has no other prompts left.
    """
    answers = policy.generate(prompts)
    rewards = score(answers).double().view(len(prompts), -1).clone()
    written, size, kept = len(prompts), rewards.shape[1], list(answers)
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
        former = Answers([kept[i * size + j] for i in flat for j in range(size)])
        rewards[flat] = score(again, instead_of=former).double().view(len(flat), -1)
        for place, i in enumerate(flat):
            kept[i * size : (i + 1) * size] = again[place * size : (place + 1) * size]
        written += len(flat)
    return Answers(kept), rewards, written


def flat_groups(rewards: Tensor) -> Tensor:
    """Which groups have nothing to learn, because their rewards are equal or missing, bool [P]."""
    return (group_advantages(rewards, scale="none") == 0).all(1)


def group_advantages(
    rewards: Tensor,
    baseline: Literal["group", "leave_one_out", "none"] = "group",
    scale: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> Tensor:
    """(r − mean) / (std + ε) of every group; rewards [P, G] → float64 [P, G], 0 where a reward is missing (NaN).

    baseline: the mean of the group, the mean of the other answers in it, or none; scale: the divisor, which is the
    sample standard deviation of the group or of all rewards, or none. With a baseline, a group of equal rewards gives
    exactly 0.
    """
    rewards, present = rewards.double(), ~rewards.isnan()
    count = present.sum(1, keepdim=True)
    others = (count - 1).clamp(min=1)
    centred = torch.where(present, rewards - rewards.nanmean(1, keepdim=True), 0.0)
    divisor: Tensor | float = 1.0
    if scale == "group":
        divisor = ((centred**2).sum(1, keepdim=True) / others).sqrt() + epsilon
    elif scale == "batch":
        divisor = _deviation(rewards[present], epsilon)
    if baseline == "none":
        return torch.where(present, rewards, 0.0) / divisor
    if baseline == "leave_one_out":
        # r_i minus the mean of the others.
        centred = centred * count / others
    # The mean of equal numbers is rounded, and a small ε would turn the rounding error into full-size advantages.
    equal = rewards.nan_to_num(-torch.inf).amax(1) <= rewards.nan_to_num(torch.inf).amin(1)
    return (centred / divisor).masked_fill(equal[:, None] | ~present, 0.0)


def step_rewards(
    answers: Answers, rewards: Tensor, step_ends: Sequence[Sequence[int]], score: Callable[..., Tensor]
) -> list[Tensor]:
    """Rewards of the steps of each answer, [S]: the answer's reward for the last step, for each earlier step the score
    of the answer so far. In an environment that gives rewards, those of its turns, and for the last one the rest.

    rewards: of the whole answers, [B]; step_ends: as in `step_advantages`.
    """
    begun = Answers([
        replace(
            answer, completion=answer.completion[: end + 1], mask=answer.mask[: end + 1], ended=False, cut=False,
            behaviour=None, correction=None, episode=None,
        )
        for answer, places in zip(answers, step_ends, strict=True) if not answer.rewarded_by_turn
        for end in places[:-1]
    ])  # fmt: skip
    scores = score(begun, unfinished=True).to(rewards) if len(begun) else rewards.new_zeros(0)
    rows, taken = [], 0
    for answer, places, whole in zip(answers, step_ends, rewards, strict=True):
        if answer.rewarded_by_turn:
            assert answer.episode is not None
            before = rewards.new_tensor([answer.episode.reward_at(end) for end in places[:-1]])
            last = whole - before.sum()
        else:
            before, last = scores[taken : taken + len(places) - 1], whole
            taken += len(before)
        rows.append(torch.cat([before, last[None]]))
    return rows


def step_advantages(
    step_rewards: Sequence[Tensor], step_ends: Sequence[Sequence[int]], epsilon: float = 1e-4
) -> list[Tensor]:
    """Advantages of tokens from rewards of steps, for the answers of one group: float64 [C] for each.

    All step rewards of the group are normalised together; a token gets the sum over the steps that end at it or later.
    step_ends: position of the last token of each step; the last step ends the answer.
    """
    all_rewards = torch.cat(list(step_rewards)).double()
    present = all_rewards[~all_rewards.isnan()]
    advantages = []
    for rewards, ends in zip(step_rewards, step_ends, strict=True):
        equal = len(present) == 0 or bool(present.max() == present.min())
        normal = (rewards.double() - present.mean()) / _deviation(present, epsilon) * (0.0 if equal else 1.0)
        to_come = to_go(normal.nan_to_num(0.0))
        lengths = torch.tensor(ends, device=rewards.device).diff(prepend=torch.tensor([-1], device=rewards.device))
        advantages.append(to_come.repeat_interleave(lengths))
    return advantages


def _deviation(values: Tensor, epsilon: float) -> Tensor | float:
    """Sample standard deviation + ε; 1 if all values are equal."""
    return values.std() + epsilon if len(values) > 1 and bool(values.max() > values.min()) else 1.0
