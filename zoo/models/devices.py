"""The device of a run, and the tokens of one forward pass."""

from __future__ import annotations

from typing import Any

import torch

from zoo.errors import ZooError
from zoo.libraries.architecture import text_config
from zoo.options.config import TrainConfig

CPU_MICRO_TOKENS = 1024
"""On a CPU, larger micro-batches cost memory and save no time."""


def choose_accelerator(wanted: str) -> str:
    """The device type that Lightning will choose: cpu, cuda or mps. Raises ZooError where it is not here."""
    kind = device_type(wanted)
    if not is_here(kind):
        what = "GPU" if kind == "cuda" else "MPS device"
        raise ZooError(
            f"--accelerator {wanted}: torch sees no {what} here.",
            "Use --accelerator auto, or run it where there is one.",
        )
    return kind


def device_type(wanted: str) -> str:
    """The device type by the name of the option, whether it is here or not; auto: the best that is here."""
    if wanted == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if is_here(kind))
    names = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}
    if wanted not in names:
        raise ZooError(f"--accelerator {wanted} is not known.", f"Choose one of auto, {', '.join(names)}.")
    return names[wanted]


def is_here(kind: str) -> bool:
    """Whether torch sees a device of this type."""
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind == "cpu" or torch.backends.mps.is_available()


def choose_micro_tokens(core: TrainConfig, device: torch.device, model: Any) -> int:
    """Tokens in one forward pass: the option's, else what fits in half of a GPU's free memory."""
    if core.micro_tokens is not None:
        return core.micro_tokens
    if device.type != "cuda":
        return CPU_MICRO_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return tokens_that_fit(free, trained, text_config(model), core.recomputes_all)


def tokens_that_fit(free: int, trained: int, config: Any, recomputed: bool) -> int:
    """Tokens in one forward pass on a GPU. trained: weights; config: of the text model."""
    # Some 40 hidden-sized values a layer are kept for the backward pass, a few if they are recomputed.
    values = (4 if recomputed else 40) * config.num_hidden_layers * config.hidden_size
    left = max(free - 12 * trained, free // 8)
    return int(min(max(left // 2 // (values * 4), 1024), 65536))
