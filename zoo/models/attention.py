"""Attention on a CPU: plain matrix products over just the pairs of tokens that see each other.

Registered with transformers under the name `zoo_cpu`; whatever it does not do better it hands to `sdpa`. Several
texts in one row, or several answers behind one prompt, are computed segment by segment: what a general mask would
compute and throw away is never computed, and a row needs no padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from zoo.models.layout import Segment

NAME = "zoo_cpu"
LONGEST = 512
"""Row length from which torch's fused kernel is the faster one under a general mask, and needs less memory."""
TILE = 256
"""Queries of a segment that are computed together; the keys behind the last of them are left out."""
KEPT = 512
"""Up to this many keys the weights of a tile are kept for the backward pass; beyond it they are made again."""


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    extras = dropout or options.get("softcap") or options.get("position_bias") is not None
    alone = query.device.type == "cpu" and 1 < query.shape[2] == key.shape[2] and not extras
    segments = getattr(attention_mask, "segments", None)
    if alone and segments is not None and len(query) == 1:
        return _Segments.apply(query, key, value, segments, scale), None
    if alone and _short(query, attention_mask, options):
        return _under_mask(query, key, value, attention_mask, scale), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def note_segments(mask: Tensor, segments: Sequence[Segment]) -> None:
    """Let a mask [1, 1, L, L] carry its meaning; where it gets lost on the way, the mask itself still holds."""
    mask.segments = [segment for segment in segments if segment.stop > segment.start]  # type: ignore[attr-defined]


def reads_segments(model: Any) -> bool:
    """Whether the model runs this attention, so that everything may lie in one row."""
    return getattr(model.config, "_attn_implementation", None) == NAME and _on_cpu(model)


def _on_cpu(model: Any) -> bool:
    return next(model.parameters()).device.type == "cpu"


def use_cpu_attention(model: Any) -> None:
    """Let a model that runs `sdpa` use this attention instead."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, cpu_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


# -- several texts in one row ------------------------------------------------------------------------------------


class _Segments(torch.autograd.Function):
    """One row of segments; query [1, H, L, D], key and value [1, G, L, D] → [1, L, H, D]."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: list[Segment], scale: float
    ) -> Tensor:
        groups, heads, length, size = key.shape[1], query.shape[1], query.shape[2], query.shape[3]
        output = query.new_zeros(length, groups, heads // groups, size)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for tile in _tiles(segments):
                rows = _rows(query, tile, groups) * scale
                weights = _weights(rows, _seen(key, tile).transpose(-1, -2), tile)
                found = (weights @ _seen(value, tile)).view(groups, heads // groups, -1, size)
                output[tile.start : tile.stop] = found.permute(2, 0, 1, 3)
                if tile.keys <= KEPT:
                    kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.constants = (segments, scale)
        return output.view(1, length, heads, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        segments, scale = ctx.constants
        groups, heads, size = key.shape[1], query.shape[1], query.shape[3]
        grad_query = torch.zeros_like(query, memory_format=torch.contiguous_format)
        # A prompt gets the gradients of all its answers: added up in float32.
        grad_key, grad_value = (torch.zeros(part.shape[1:], dtype=torch.float32) for part in (key, value))
        grad = grad.transpose(1, 2)
        weights_of = iter(kept)
        with torch.autocast("cpu", enabled=False):
            for tile in _tiles(segments):
                rows, keys, grad_rows = _rows(query, tile, groups) * scale, _seen(key, tile), _rows(grad, tile, groups)
                known = tile.keys <= KEPT
                weights = next(weights_of) if known else _weights(rows, keys.transpose(-1, -2), tile)
                _add_seen(grad_value, weights.transpose(-1, -2) @ grad_rows, tile)
                grad_weights = grad_rows @ _seen(value, tile).transpose(-1, -2)
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                _add_seen(grad_key, grad_scores.transpose(-1, -2) @ rows, tile)
                found = (grad_scores @ keys).mul_(scale).view(heads, -1, size)
                grad_query[0, :, tile.start : tile.stop] = found
        return grad_query, grad_key[None].to(key.dtype), grad_value[None].to(value.dtype), None, None


class _Tile(NamedTuple):
    """Columns start … stop, and the ranges of columns that the last of them sees, which end with the tile itself."""

    start: int
    stop: int
    seen: list[tuple[int, int]]

    @property
    def keys(self) -> int:
        return sum(stop - start for start, stop in self.seen)


def _tiles(segments: Sequence[Segment]) -> Iterator[_Tile]:
    for segment in segments:
        first, last = segment.prefix if segment.prefix[1] > segment.prefix[0] else (segment.start, segment.start)
        for start in range(segment.start, segment.stop, TILE):
            stop = min(start + TILE, segment.stop)
            # Ranges that touch are one: a product reads them in place.
            seen = [(first, stop)] if last == segment.start else [(first, last), (segment.start, stop)]
            yield _Tile(start, stop, seen)


def _rows(part: Tensor, tile: _Tile, groups: int) -> Tensor:
    """[1, H, L, D] → [G, H/G·T, D]: the heads of a group behind each other, so that keys are never copied per head."""
    return part[0, :, tile.start : tile.stop].reshape(groups, -1, part.shape[-1])


def _seen(part: Tensor, tile: _Tile) -> Tensor:
    """[1, G, L, D] → [G, K, D], what the tile sees."""
    found = [part[0, :, start:stop] for start, stop in tile.seen]
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _add_seen(total: Tensor, part: Tensor, tile: _Tile) -> None:
    """Add [G, K, D] to the columns of [G, L, D] that the tile sees."""
    at = 0
    for start, stop in tile.seen:
        total[:, start:stop] += part[:, at : at + stop - start]
        at += stop - start


def _weights(rows: Tensor, keys: Tensor, tile: _Tile) -> Tensor:
    """softmax of the scores, [G, H/G·T, K]; within the tile no column sees a later one."""
    scores = rows @ keys
    size = tile.stop - tile.start
    own = scores.view(len(rows), -1, size, tile.keys)[..., tile.keys - size :]
    own.masked_fill_(_later(size), torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1)


@lru_cache(maxsize=TILE)
def _later(size: int) -> Tensor:
    """Bool [size, size], True where a column comes after its row."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


# -- short rows under a general mask -----------------------------------------------------------------------------


def _short(query: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Self-attention of a few hundred bfloat16 tokens."""
    length = query.shape[2]
    causal = mask is None and options.get("is_causal") is not False
    given = mask is not None and mask.dtype == torch.bool and mask.shape[1:] == (1, length, length)
    return query.dtype == torch.bfloat16 and length <= LONGEST and (causal or given)


def _under_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    # The heads of a group lie behind each other as rows of one product, so that keys are never copied per head.
    together = (batch, groups, heads // groups * length)
    rows = (query * scale).reshape(*together, size)
    scores = (rows @ key.transpose(-1, -2)).view(batch, heads, length, length)
    # The lowest number, not −∞: padding that sees nothing at all must not become NaN.
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), -1)
    output = weights.view(*together, length) @ value
    return output.view(batch, heads, length, size).transpose(1, 2)
