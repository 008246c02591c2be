"""The weights of a model as an engine elsewhere needs them: whether they changed, merged, and what they say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.models.snapshot import evaluating
from zoo.values.types import Answer


def fingerprint(model: Any) -> tuple[int, ...]:
    """Differs, to all practical purposes, when any weight does: sums over the bits of each tensor."""
    as_whole = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.int8}
    return tuple(
        int(weight.detach().contiguous().view(as_whole[weight.element_size()]).sum(dtype=torch.int64))
        for weight in model.parameters()
    )


@torch.no_grad()
def own_logps(model: Any, answer: Answer) -> Tensor:
    """Log-probs of an answer's tokens by the model itself, float32 [C], on the CPU."""
    device = model.get_input_embeddings().weight.device
    with evaluating(model):
        logits = model(input_ids=torch.cat([answer.prompt, answer.completion])[None].to(device)).logits[0]
    logps = logits[len(answer.prompt) - 1 : -1].float().log_softmax(-1).cpu()
    return logps.gather(-1, answer.completion[:, None])[:, 0]
