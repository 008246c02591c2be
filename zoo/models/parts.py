"""Scoring many answers without gradient: in parts that fit into memory, divided among the processes.

While a rollout is made every process holds all answers and needs a number for each. Each process scores every so many
of the parts, and the numbers are gathered: the same on all, whichever has computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from zoo.models.layout import counted
from zoo.processes import gathered, my_place
from zoo.values.packing import pack
from zoo.values.types import Answer, TokenLogps, pad


def cut(answers: Sequence[Answer], micro_tokens: int) -> list[list[int]]:
    """Indices of answers in parts of at most `micro_tokens` tokens, a shared prompt counted once.

    Answers to one prompt stay side by side, so that they share its compute.
    """

    def prompt_of(i: int) -> tuple[int, list[int]]:
        return len(answers[i].prompt), answers[i].prompt.tolist()

    groups = [list(group) for _, group in groupby(sorted(range(len(answers)), key=prompt_of), prompt_of)]
    sizes = [len(answer) for answer in answers]
    return pack(groups, sizes, micro_tokens, shared=[len(answer.prompt) for answer in answers])


def rows_in_parts(
    compute: Callable[[list[Answer]], list[Tensor]], answers: Sequence[Answer], micro_tokens: int
) -> list[Tensor]:
    """One tensor for each answer, in their order. compute: gives those of a part of the answers."""
    rank, processes = my_place()
    mine: dict[int, Tensor] = {}
    for part in cut(answers, micro_tokens)[rank::processes]:
        rows = compute([answers[i] for i in part])
        mine.update(zip(part, (row.detach().cpu() for row in rows), strict=True))
    computed = {i: row for share in gathered(mine) for i, row in share.items()}
    return [computed[i] for i in range(len(answers))]


@torch.no_grad()
def logps_in_parts(
    score: Callable[[list[Answer]], TokenLogps], answers: Sequence[Answer], micro_tokens: int
) -> TokenLogps:
    """The log-probs, and entropies if any, that `score` computes, in parts."""
    device = answers[0].completion.device if answers else torch.device("cpu")

    def rows(part: list[Answer]) -> list[Tensor]:
        scored = score(part)
        entropy = scored.computed["entropy"]
        columns = [scored.per_token] if entropy is None else [scored.per_token, entropy]
        return [torch.stack([c[k, : len(a.completion)] for c in columns]) for k, a in enumerate(part)]

    logps = rows_in_parts(rows, answers, micro_tokens)
    columns = [pad([row[k] for row in logps], 0.0).to(device) for k in range(len(logps[0]) if logps else 1)]
    return TokenLogps(columns[0], counted(answers).to(device), entropy=columns[1] if len(columns) > 1 else None)
