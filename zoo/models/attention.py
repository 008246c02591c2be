"""Attention on a CPU: plain matrix products over just the pairs of tokens that see each other.

Registered with transformers under the name `zoo_cpu`; whatever it does not do better it hands to `sdpa`. Several
texts in one row, or several answers behind one prompt, are computed by their segments, those of about one length as
one product: little is computed that a general mask would throw away, and a row needs no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from zoo.libraries.arithmetic import softmax_backward
from zoo.libraries.attention import attention_name, sdpa_attention_forward, use_attention
from zoo.libraries.tracing import is_fake
from zoo.models.layout import Segment

NAME = "zoo_cpu"
LONGEST = 512
"""Row length from which torch's fused kernel is faster under a general mask, and needs less memory."""
TILE = 256
"""Queries of a segment that are computed together; the keys behind the last of them are left out."""
KEPT = 512
"""Up to this many keys, the weights of a tile are kept for the backward pass; beyond, they are computed again."""
PADDING = 1.4
"""How much larger than its tiles, padding included, a block may be."""
TOGETHER = 1 << 19
"""Most attention weights of a block of several tiles, so that they stay in the CPU's caches."""


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
    """softmax(q·kᵀ·scaling)·v over what the mask shows; query [B, H, L, D], key [B, G, L, D], value [B, G, L, E].

    attention_mask: bool [B or 1, 1, L, L], True where a token may look; None is causal. Returns [B, L, H, E].
    """
    if torch.is_autocast_enabled("cpu") and query.device.type == "cpu":
        low = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(low), key.to(low), value.to(low)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    extras = dropout or options.get("softcap") or options.get("position_bias") is not None
    alone = query.device.type == "cpu" and 1 < query.shape[2] == key.shape[2] and not extras
    tiling = getattr(attention_mask, "tiling", None)
    if alone and tiling is not None and len(query) == 1:
        return _Segments.apply(query, key, value, tiling, scale), None
    if isinstance(attention_mask, SegmentMask):
        attention_mask = attention_mask.made()
    if alone and _short(query, attention_mask, options):
        return _under_mask(query, key, value, attention_mask, scale), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


class SegmentMask(Tensor):
    """The mask of a row of segments, bool [1, 1, L, L]. It is made when anything but this attention reads it.

    At 16,000 tokens it would take seconds and a gigabyte in every forward pass. make: gives the mask.
    """

    tiling: Tiling

    @staticmethod
    def __new__(cls, segments: Sequence[Segment], make: Callable[[], Tensor]) -> SegmentMask:
        length = segments[-1].stop
        return Tensor._make_wrapper_subclass(cls, (1, 1, length, length), dtype=torch.bool)  # type: ignore[attr-defined]

    def __init__(self, segments: Sequence[Segment], make: Callable[[], Tensor]):
        self.tiling, self._make = Tiling(segments), make
        self._made: Tensor | None = None

    def made(self) -> Tensor:
        """The mask as an ordinary tensor."""
        if self._made is None:
            self._made = self._make()
        return self._made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(SegmentMask, SegmentMask.made, (args, kwargs or {}))
        return function(*args, **kwargs)


def reads_segments(model: Any) -> bool:
    """Whether the model runs this attention, so that everything may lie in one row."""
    return attention_name(model) == NAME and _on_cpu(model)


def _on_cpu(model: Any) -> bool:
    return next(model.parameters()).device.type == "cpu"


def use_cpu_attention(model: Any) -> None:
    """Let a model that runs `sdpa` use this attention instead."""
    if attention_name(model) == "sdpa":
        use_attention(model, NAME, cpu_attention)


# -- several texts in one row ------------------------------------------------------------------------------------


class _Segments(torch.autograd.Function):
    """One row of segments; query [1, H, L, D], key [1, G, L, D], value [1, G, L, E] → [1, L, H, E]."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiling: Tiling, scale: float
    ) -> Tensor:
        plan = tiling.plan(query.shape[1], key.shape[1])
        rows, keys, values = (_by_token(part) for part in (query, key, value))
        output, kept = values.new_empty(plan.size, values.shape[-1]), []
        traced = is_fake(rows)
        with torch.autocast("cpu", enabled=False):
            for block in plan.blocks:
                if traced and block.repeated:
                    weights = rows.new_empty(block.shape)
                else:
                    weights = _weights(block.rows(rows).mul_(scale), block.seen(keys), block)
                    torch.bmm(weights, block.seen(values), out=block.part(output))
                if block.keys.shape[1] <= KEPT:
                    kept.append(weights)
        ctx.save_for_backward(rows, keys, values, *kept)
        ctx.constants = (plan, scale, query.shape[2])
        return output.index_select(0, plan.place).view(1, query.shape[2], query.shape[1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, keys, values, *kept = ctx.saved_tensors
        plan, scale, length = ctx.constants
        grad = grad.reshape(-1, grad.shape[-1])
        grad_query = rows.new_empty(plan.size, rows.shape[-1])
        # A prompt's gradient is the sum over its answers, in float32.
        grad_keys, grad_values = (torch.zeros(part.shape, dtype=torch.float32) for part in (keys, values))
        weights_of, traced = iter(kept), is_fake(rows)
        with torch.autocast("cpu", enabled=False):
            for block in plan.blocks:
                weights = next(weights_of) if block.keys.shape[1] <= KEPT else None
                if traced and block.repeated:
                    continue
                queries, seen, grad_rows = block.rows(rows).mul_(scale), block.seen(keys), block.rows(grad)
                grad_rows.view(-1, grad.shape[-1]).index_fill_(0, block.padding, 0)
                weights = _weights(queries, seen, block) if weights is None else weights
                block.add_seen(grad_values, weights.transpose(1, 2) @ grad_rows)
                grad_weights = grad_rows @ block.seen(values).transpose(1, 2)
                grad_scores = softmax_backward(grad_weights, weights)
                block.add_seen(grad_keys, grad_scores.transpose(1, 2) @ queries)
                torch.bmm(grad_scores, seen, out=block.part(grad_query)).mul_(scale)
        grads = (grad_query.index_select(0, plan.place), grad_keys.to(keys.dtype), grad_values.to(values.dtype))
        return *(part.view(length, -1, part.shape[-1]).transpose(0, 1)[None] for part in grads), None, None


class _Tile(NamedTuple):
    """Columns start … stop, and the ranges of columns that the last of them sees, which end with the tile itself."""

    start: int
    stop: int
    seen: list[tuple[int, int]]

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def keys(self) -> int:
        return sum(stop - start for start, stop in self.seen)


class Tiling:
    """The segments of a row as an attention computes them; what its layers share is made once."""

    def __init__(self, segments: Sequence[Segment]):
        self.tiles = list(_tiles(segments))
        self._plans: dict[tuple[int, int], _Plan] = {}

    def plan(self, heads: int, groups: int) -> _Plan:
        """The plan for an attention with this many heads and groups of keys."""
        if (heads, groups) not in self._plans:
            self._plans[heads, groups] = _Plan(self.tiles, heads, groups)
        return self._plans[heads, groups]


class _Plan:
    """Blocks of tiles, whose results lie behind each other in `size` rows; place int64 [L·H]: where each is found."""

    def __init__(self, tiles: Sequence[_Tile], heads: int, groups: int):
        self.blocks: list[_Block] = []
        self.size = 0
        for alike in _alike(tiles, heads):
            self.blocks.append(_Block(alike, heads, groups, self.size))
            self.size += self.blocks[-1].queries.numel()
        shapes = [block.shape for block in self.blocks]
        for block, own, second, third in zip(self.blocks, shapes, shapes[1:], shapes[2:], strict=False):
            block.repeated = own == second == third
        self.place = torch.empty(sum(tile.size for tile in tiles) * heads, dtype=torch.long)
        for block in self.blocks:
            real = (~block.padded).nonzero().squeeze(-1)
            self.place[block.queries[real]] = block.begin + real


class _Block:
    """n tiles of about one size, padded to T queries and K keys each, so that one product computes them all.

    Rows are a head of a token: queries int64 [n·H·T] says which of the L·H rows each is, those of a group of heads
    behind each other, so that keys are never copied per head; keys int64 [n·G, K] which of the L·G rows are seen.
    padding: those of the queries that are none. hidden bool [n, 1, T, K]: what a query does not see. repeated: the two
    blocks behind it have its shape. Where memory is only counted, it need not be computed: the last one has the peak.
    """

    repeated = False

    def __init__(self, tiles: Sequence[_Tile], heads: int, groups: int, begin: int):
        self.begin = begin
        size, width = max(tile.size for tile in tiles), max(tile.keys for tile in tiles)
        columns, keys = (torch.zeros(len(tiles), length, dtype=torch.long) for length in (size, width))
        padded = torch.ones(len(tiles), size, dtype=torch.bool)
        self.hidden = torch.ones(len(tiles), 1, size, width, dtype=torch.bool)
        for i, tile in enumerate(tiles):
            own = slice(tile.keys - tile.size, tile.keys)
            columns[i, : tile.size] = torch.arange(tile.start, tile.stop)
            keys[i, : tile.keys] = torch.cat([torch.arange(start, stop) for start, stop in tile.seen])
            padded[i, : tile.size] = False
            self.hidden[i, 0, : tile.size, : own.start] = False
            self.hidden[i, 0, : tile.size, own] = torch.ones(tile.size, tile.size, dtype=torch.bool).triu(1)
        of_head = torch.arange(heads)[:, None]
        self.queries = (columns[:, None] * heads + of_head).reshape(-1)
        self.padded = padded[:, None].expand(-1, heads, -1).reshape(-1)
        self.padding = self.padded.nonzero().squeeze(-1)
        self.keys = (keys[:, None] * groups + torch.arange(groups)[:, None]).reshape(-1, width)
        self.shape = (len(self.keys), len(self.queries) // len(self.keys), width)
        """Of the weights: [n·G, H/G·T, K]."""

    def rows(self, part: Tensor) -> Tensor:
        """[L·H, D] → [n·G, H/G·T, D]."""
        return part.index_select(0, self.queries).view(len(self.keys), -1, part.shape[-1])

    def seen(self, part: Tensor) -> Tensor:
        """[L·G, D] → [n·G, K, D]."""
        return part.index_select(0, self.keys.view(-1)).view(*self.keys.shape, -1)

    def part(self, results: Tensor) -> Tensor:
        """Where the results of this block belong, [n·G, H/G·T, D]."""
        return results[self.begin : self.begin + len(self.queries)].view(len(self.keys), -1, results.shape[-1])

    def add_seen(self, total: Tensor, part: Tensor) -> None:
        """Add [n·G, K, D] to those of the L·G rows that were seen; padding adds zeros."""
        total.scatter_add_(0, self.keys.view(-1, 1).expand(-1, total.shape[-1]), part.view(-1, total.shape[-1]).float())


def _tiles(segments: Sequence[Segment]) -> Iterator[_Tile]:
    for segment in segments:
        first, last = segment.prefix if segment.prefix[1] > segment.prefix[0] else (segment.start, segment.start)
        for start in range(segment.start, segment.stop, TILE):
            stop = min(start + TILE, segment.stop)
            seen = [(first, stop)] if last == segment.start else [(first, last), (segment.start, stop)]
            yield _Tile(start, stop, seen)


def _alike(tiles: Sequence[_Tile], heads: int) -> Iterator[list[_Tile]]:
    """Group tiles while the padding stays small and their weights fit into the CPU's caches."""
    block: list[_Tile] = []
    for tile in sorted(tiles, key=lambda tile: (tile.keys, tile.size)):
        more = [*block, tile]
        area = len(more) * tile.keys * max(member.size for member in more)
        if block and (area > PADDING * sum(member.keys * member.size for member in more) or area * heads > TOGETHER):
            yield block
            more = [tile]
        block = more
    if block:
        yield block


def _by_token(part: Tensor) -> Tensor:
    """[1, H, L, D] → [L·H, D]."""
    return part[0].transpose(0, 1).reshape(-1, part.shape[-1])


def _weights(rows: Tensor, keys: Tensor, block: _Block) -> Tensor:
    """softmax of the scores, [n·G, H/G·T, K]."""
    scores = rows @ keys.transpose(1, 2)
    count, _, size, width = block.hidden.shape
    scores.view(count, -1, size, width).masked_fill_(block.hidden, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1)


# -- short rows under a general mask -----------------------------------------------------------------------------


def _short(query: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Self-attention of a few hundred bfloat16 tokens."""
    length = query.shape[2]
    causal = mask is None and options.get("is_causal") is not False
    masked = mask is not None and mask.dtype == torch.bool and mask.shape[1:] == (1, length, length)
    return query.dtype == torch.bfloat16 and length <= LONGEST and (causal or masked)


def _under_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    # The heads of a group are rows of one product, so that keys are not copied for each head.
    together = (batch, groups, heads // groups * length)
    rows = (query * scale).reshape(*together, size)
    scores = (rows @ key.transpose(-1, -2)).view(batch, heads, length, length)
    # The lowest number, not −∞: padding that sees nothing at all must not become NaN.
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), -1)
    output = weights.view(*together, length) @ value
    return output.view(batch, heads, length, value.shape[-1]).transpose(1, 2)
