"""Keys and values of the answers in flight: rows that come and go while the batch runs on.

`RollingRows` keeps all rows right-aligned in one preallocated block: the newest token of every row is in the same
column, whatever its length. A step then writes one column for all rows; a new row is copied so that its last prompt
token is in the current column; and a finished row is overwritten by the last row. Nothing is copied for the rows that
stay. Since a row is contiguous, distances between columns are distances between positions, and the masks which a
model builds itself from a padding mask (causal, sliding, chunked) are right.

`GroupRows` is for models whose state is more than keys and values of every layer (state spaces, short convolutions,
layers that share their keys) and must not see padding: it holds the answers to one prompt at a time, in the model's
own cache. `WholeRows` is for models that keep their state anywhere else: the answers to one prompt at a time, and every
step computes them as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.libraries.caches import Cache, DynamicCache, DynamicLayer

SPARE_COLUMNS = 128
Kept = list[tuple[Tensor, Tensor]]
"""Keys and values of one text, [head, column, size] of each layer, without padding."""


@dataclass
class _Window:
    """The used part of the block: `rows` rows, in columns `begin` up to (not including) `end`."""

    rows: int = 0
    begin: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        return self.end - self.begin


class _RollingLayer(DynamicLayer):
    """One layer's block: keys and values [row, head, column, size], zero where nothing was written.

    Masked columns must be finite, because zero times infinity is not zero.
    """

    # transformers leaves out a mask that hides nothing, unless a cache declares itself compileable; without a
    # mask it uses grouped-query attention, which on a CPU took longer than all the rest of the step.
    is_compileable = True
    keys: Any
    values: Any

    def __init__(self, window: _Window, dtype: torch.dtype | None):
        super().__init__()
        self.window, self.kept_as = window, dtype

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one column, [rows, head, 1, size], and returns all columns of the rows in flight."""
        window = self.window
        rows, begin, end = window.rows, window.begin, window.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, begin : end + 1], self.values[:rows, :, begin : end + 1]

    def get_seq_length(self) -> int:
        return self.window.width

    def place(self, prefilled: Any, sources: Tensor, first_row: int) -> None:
        """Copies the given rows of a prefilled layer behind the rows in flight, aligned to the cursor."""
        sources = sources.to(self.keys.device)
        columns = slice(self.window.end - prefilled.keys.shape[2], self.window.end)
        rows = slice(first_row, first_row + len(sources))
        self.keys[rows, :, columns] = prefilled.keys[sources]
        self.values[rows, :, columns] = prefilled.values[sources]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copies whole rows of the window over others."""
        sources, targets = sources.to(self.keys.device), targets.to(self.keys.device)
        columns = slice(self.window.begin, self.window.end)
        for block in (self.keys, self.values):
            block[targets, :, columns] = block[sources, :, columns]

    def resize(self, like: Any, rows: int, columns: int, end: int) -> None:
        """A new block in which the window ends at column `end`."""
        self.keys = self._resized(self.keys, like.keys, rows, columns, end)
        self.values = self._resized(self.values, like.values, rows, columns, end)
        self.is_initialized = True

    def _resized(self, old: Tensor | None, like: Tensor, rows: int, columns: int, end: int) -> Tensor:
        window = self.window
        new = like.new_zeros(rows, like.shape[1], columns, like.shape[3], dtype=self.kept_as)
        if old is not None and window.width:
            new[: window.rows, :, end - window.width : end] = old[: window.rows, :, window.begin : window.end]
        return new


def _autocast_dtype(like: Tensor) -> torch.dtype | None:
    """The precision to which attention under autocast rounds keys and values anyway; None for their own precision.

    Stored in it, they take half the memory and are not rounded again in every step.
    """
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class RollingRows:
    """Right-aligned rows of any lengths, in one block (see the module)."""

    together = True
    """Whether answers to different prompts may share the batch."""

    def __init__(self, max_rows: int):
        self.cache = DynamicCache()
        self.layers: list[_RollingLayer] = []
        self.window = _Window()
        self.max_rows = max_rows
        self.columns = 0

    def new_prefill_cache(self) -> Cache:
        """A cache for the prompts. It keeps every column, even in sliding layers, because masks do the sliding."""
        return DynamicCache()

    def admit(self, prefilled: Cache, sources: list[int]) -> None:
        """Adds the rows `sources` (one may come several times) of a left-padded, prefilled cache."""
        width = prefilled.get_seq_length()
        if not self.layers:
            layers: Sequence[Any] = prefilled.layers
            self.layers = [_RollingLayer(self.window, _autocast_dtype(layer.keys)) for layer in layers]
            self.cache.layers = list(self.layers)
        self._reserve(prefilled.layers, before=width, after=0)
        self.window.begin = min(self.window.begin, self.window.end - width)
        for layer, source in zip(self.layers, prefilled.layers, strict=True):
            layer.place(source, torch.tensor(sources), self.window.rows)
        self.window.rows += len(sources)

    def taken(self, row: int, length: int) -> Kept | None:
        """A copy of what a row has of its last `length` tokens."""
        columns = slice(self.window.end - length, self.window.end)
        return [(layer.keys[row, :, columns].clone(), layer.values[row, :, columns].clone()) for layer in self.layers]

    def given_back(self, kept: Sequence[Kept], lengths: Sequence[int]) -> Cache:
        """A cache of the first `lengths` tokens of texts, padded on the left."""
        cache, width = DynamicCache(), max(lengths)
        for number in range(len(kept[0])):
            keys, values = (
                torch.stack([
                    torch.nn.functional.pad(text[number][part][:, :length], (0, 0, width - length, 0))
                    for text, length in zip(kept, lengths, strict=True)
                ])
                for part in (0, 1)
            )  # fmt: skip
            cache.update(keys, values, number)
        return cache

    def keep(self, order: list[int]) -> None:
        """Row i becomes what row order[i] was; order[i] is i, or a row at or past len(order)."""
        moves = [(old, new) for new, old in enumerate(order) if old != new]
        self.window.rows = len(order)
        if moves:
            sources, targets = torch.tensor(moves).T
            for layer in self.layers:
                layer.move(sources, targets)

    def step(self, lengths: list[int], device: torch.device) -> Tensor:
        """Makes room for one column; returns the padding mask of the columns, int64 [rows, width].

        lengths: the tokens of each row, including the one being fed.
        """
        width = max(lengths)
        self.window.begin = self.window.end - (width - 1)
        self._reserve(self.layers, before=width - 1, after=1)
        starts = width - torch.tensor(lengths, device=device)[:, None]
        mask = torch.arange(width, device=device) >= starts
        return mask.long()

    def advance(self) -> None:
        """Move past the column of this step."""
        self.window.end += 1

    def _reserve(self, like: Sequence[Any], before: int, after: int) -> None:
        """Makes room for `before` columns up to the cursor and `after` columns after it."""
        window = self.window
        if before <= window.end and window.end + after <= self.columns:
            return
        # Never narrower than the window: either `before` is its width, or it reaches past the cursor.
        end = before
        self.columns = end + max(SPARE_COLUMNS, end // 4)
        for layer, example in zip(self.layers, like, strict=True):
            layer.resize(example, self.max_rows, self.columns, end)
        window.begin, window.end = end - window.width, end


class GroupRows:
    """The answers to one prompt in the model's own cache (see the module)."""

    together = False

    def __init__(self, config: Any):
        self.config = config
        self.cache: Any = None

    def new_prefill_cache(self) -> Any:
        return DynamicCache(config=self.config)

    def admit(self, prefilled: Cache, sources: list[int]) -> None:
        # A copy, because the same prompt is needed again if its answers do not fit into one batch.
        self.cache = copy.deepcopy(prefilled)
        self._select(sources)

    def taken(self, row: int, length: int) -> Kept | None:
        """Nothing: a text that goes on is computed as a whole."""
        return None

    def keep(self, order: list[int]) -> None:
        self._select(order)

    def step(self, lengths: list[int], device: torch.device) -> None:
        """Nothing is padded."""

    def advance(self) -> None:
        pass

    def _select(self, rows: list[int]) -> None:
        # Reordering is the one selection which every kind of layer implements.
        self.cache.reorder_cache(torch.tensor(rows, dtype=torch.long))


class Texts:
    """Whole texts in the place of a cache; ids int64 [rows, tokens]."""

    ids: Tensor | None = None

    def add(self, ids: Tensor) -> Tensor:
        """The texts with these tokens behind them."""
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], 1)
        return self.ids

    def reorder_cache(self, rows: Tensor) -> None:
        assert self.ids is not None
        self.ids = self.ids[rows.to(self.ids.device)]


class WholeRows(GroupRows):
    """The answers to one prompt as texts (see the module)."""

    def new_prefill_cache(self) -> Any:
        return Texts()
