"""Attention on a CPU in bfloat16: plain matrix products for short rows, where torch's fused kernel is slow.

Registered with transformers under the name `zoo_cpu`; whatever it does not do better it hands to `sdpa`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "zoo_cpu"
LONGEST = 512
"""Row length from which the fused kernel is the faster one, and needs less memory."""


def cpu_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """softmax(q·kᵀ·scaling)·v over what the mask shows; query [B, H, L, D], key and value [B, G, L, D].

    attention_mask: bool [B or 1, 1, L, L], True where a token may look; None is causal. Returns [B, L, H, D].
    """
    if torch.is_autocast_enabled("cpu") and query.device.type == "cpu":
        low = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(low), key.to(low), value.to(low)
    if not _short(query, key, attention_mask, dropout, options):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if attention_mask is None:
        attention_mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    # The heads of a group lie behind each other as rows of one product, so that keys are never copied per head.
    together = (batch, groups, heads // groups * length)
    rows = (query * (size**-0.5 if scaling is None else scaling)).reshape(*together, size)
    scores = (rows @ key.transpose(-1, -2)).view(batch, heads, length, length)
    # The lowest number, not −∞: padding that sees nothing at all must not become NaN.
    weights = torch.softmax(scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min), -1)
    output = weights.view(*together, length) @ value
    return output.view(batch, heads, length, size).transpose(1, 2), None


def _short(query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, options: dict[str, Any]) -> bool:
    """Self-attention of a few hundred bfloat16 tokens without any extras."""
    length = query.shape[2]
    extras = dropout or options.get("softcap") or options.get("position_bias") is not None
    causal = mask is None and options.get("is_causal") is not False
    given = mask is not None and mask.dtype == torch.bool and mask.shape[1:] == (1, length, length)
    right_kind = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return right_kind and 1 < length == key.shape[2] <= LONGEST and not extras and (causal or given)


def use_cpu_attention(model: Any) -> None:
    """Let a model that runs `sdpa` use this attention instead."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, cpu_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
