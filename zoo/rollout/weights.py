"""The weights of a model for a remote engine: their fingerprint, a merged copy, and log-probabilities to compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.models.snapshot import evaluating
from zoo.values.types import Answer


def fingerprint(model: Any) -> tuple[int, ...]:
    """Sums over the bits of each tensor; for all practical purposes they change with any weight."""
    as_whole = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.int8}
    return tuple(
        int(weight.detach().contiguous().view(as_whole[weight.element_size()]).sum(dtype=torch.int64))
        for weight in model.parameters()
    )


@torch.no_grad()
def own_logps(model: Any, answer: Answer) -> Tensor:
    """Log-probabilities of an answer's tokens by the model itself, float32 [C], on the CPU."""
    device = model.get_input_embeddings().weight.device
    with evaluating(model):
        logits = model(input_ids=torch.cat([answer.prompt, answer.completion])[None].to(device)).logits[0]
    logps = logits[len(answer.prompt) - 1 : -1].float().log_softmax(-1).cpu()
    return logps.gather(-1, answer.completion[:, None])[:, 0]
