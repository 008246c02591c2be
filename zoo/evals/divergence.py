"""How far a model has moved from another: the KL divergence of whole answers, exact over the vocabulary.

KL(π ‖ π₀) = E over answers y of π of Σ_t KL(π(·|x, y_<t) ‖ π₀(·|x, y_<t)). Answers are sampled from π at temperature 1;
each position's term is exact, over the whole vocabulary, so that one answer per prompt gives a usable mean (the
sampled log-ratio has the same mean but many times the variance). An answer that reaches the length limit counts up to
it. Backbones run in the precision of the evaluation, heads and softmax in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.models.layout import arrange
from zoo.models.precision import autocast
from zoo.models.scoring import balance_of, head_and_states, on_device
from zoo.values.types import Answer

CHUNK_BYTES = 96 * 2**20
"""Size of one chunk of float32 logits."""
TOKENS_AT_ONCE = 4096


@torch.no_grad()
def answer_divergences(
    model: Any,
    start: Any,
    answers: Sequence[Answer],
    precision: str = "32-true",
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Σ_t KL(π_t ‖ π₀_t) of each answer, in nats. Both models are on one device and in eval mode."""
    divergences = [0.0] * len(answers)
    order = sorted((i for i in range(len(answers)) if len(answers[i].completion)), key=lambda i: len(answers[i]))
    done = 0
    while done < len(order):
        count = max(1, min(len(order) - done, TOKENS_AT_ONCE // len(answers[order[done]])))
        part = order[done : done + count]
        sums = _divergences(model, start, [answers[i] for i in part], precision)
        for i, value in zip(part, sums.tolist(), strict=True):
            divergences[i] = value
        done += count
        if progress is not None:
            progress(done, len(order))
    return divergences


def _divergences(model: Any, start: Any, answers: list[Answer], precision: str) -> Tensor:
    device = next(model.parameters()).device
    rows = on_device(arrange([answer.to(device) for answer in answers], "padded", balance_of(model)), device)
    with autocast(precision, device):
        read = [head_and_states(network, rows) for network in (model, start)]
    sums = torch.zeros(len(answers), dtype=torch.float64, device=device)
    size = max(1, CHUNK_BYTES // (4 * len(read[0][0].weight)))
    for begin in range(0, len(rows.target), size):
        here = slice(begin, begin + size)
        new, old = (head.logits(states[here]).log_softmax(-1) for head, states in read)
        each = (new.exp() * (new - old)).sum(-1)
        sums.index_add_(0, rows.answer[here], each.double())
    return sums.clamp(min=0)
