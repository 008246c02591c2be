"""Decoding: one call of `generate`, from the queue of prompts to the finished answers.

A prompt is prefilled once, and its keys and values are copied for each of its answers. All answers in flight get one
token per step. Answers that end leave the batch at once, and when enough places are free, the next prompts are
prefilled into them, so that a long answer does not delay the others.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.libraries.caches import Cache, Signature, keeps_state
from zoo.libraries.heads import own_logits
from zoo.libraries.turns import caller, in_pass, is_shared
from zoo.libraries.wrappers import base_of
from zoo.processes import agreed
from zoo.rollout.budget import common_length, within
from zoo.rollout.cache import GroupRows, Kept, RollingRows, Texts, WholeRows
from zoo.rollout.sampling import Sampling, StopStrings, choose, uniform_stream
from zoo.values.types import Answer

REFILL_SHARE = 0.25
"""Part of the batch that must be free before prompts are prefilled between two steps."""
SAME, ROUNDED = 1e-3, 0.1
"""Largest difference of log-probs that counts as rounding, in float32; largest mean difference in lower precision."""
_IS_PLAIN: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
_KEEPS_ITS_STATE: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
PREFILL_TOKENS = 8192
"""Prompt tokens, padding included, that are prefilled at a time."""


class Forward:
    """The logits after the last token, from any causal language model of transformers or peft."""

    def __init__(self, model: Any):
        self.model = model
        self.signature = Signature.of(base_of(model))
        self.device = model.get_input_embeddings().weight.device
        self.config = model.config
        self.is_shared = is_shared(model)

    def __call__(self, ids: Tensor, positions: Tensor, cache: Cache | Texts, mask: Tensor | None) -> Tensor:
        """ids and positions: int64 [B, T]; mask: of padding, int64 [B, columns], or None; returns [B, V]."""
        if isinstance(cache, Texts):
            return own_logits(self.model, input_ids=cache.add(ids))[:, -1]
        assert self.signature is not None
        given = self.signature.arguments(ids, positions, cache, mask)
        return in_pass(self.model, lambda: caller(self.model)(**given).logits[:, -1])

    def rows(self, max_rows: int) -> RollingRows | GroupRows:
        """The store for the answers of this model."""
        if self._is_plain():
            return RollingRows(max_rows)
        return GroupRows(self.config) if self._keeps_its_state() else WholeRows(self.config)

    def _is_plain(self) -> bool:
        """Whether keys and values of every layer are all that the model keeps: looked at once, with two tokens."""
        base = base_of(self.model)
        if base not in _IS_PLAIN:
            _IS_PLAIN[base] = self.signature is not None and not keeps_state(base) and self._fills_its_cache()
        return _IS_PLAIN[base]

    def _fills_its_cache(self) -> bool:
        cache: Any = RollingRows(1).new_prefill_cache()
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        try:
            with torch.no_grad():
                self(ids, torch.arange(2, device=self.device)[None], cache, None)
        # A model that keeps its state elsewhere fails in ways of its own.
        except Exception:
            return False
        return bool(cache.layers) and all(getattr(layer, "keys", None) is not None for layer in cache.layers)

    def _keeps_its_state(self) -> bool:
        """Whether the model's cache has all of its state: looked at once, with two prompts of two answers each."""
        base = base_of(self.model)
        if base not in _KEEPS_ITS_STATE:
            with torch.no_grad():
                _KEEPS_ITS_STATE[base] = self.signature is not None and all(map(self._continues, (5, 3)))
            if not _KEEPS_ITS_STATE[base]:
                warnings.warn(
                    f"{type(base).__name__} keeps its state outside of a cache: each token of an answer is computed "
                    "from the whole text, which is slow.", stacklevel=1,
                )  # fmt: skip
        return _KEEPS_ITS_STATE[base]

    def _continues(self, length: int) -> bool:
        """Whether logits after a prompt and another token are the same with a cache as without."""
        store = GroupRows(self.config)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        ids = (torch.arange(length, device=self.device)[None] * 3 + length) % vocabulary
        more = torch.tensor([[1], [2]], device=self.device) % vocabulary
        try:
            prefilled = store.new_prefill_cache()
            self(ids, torch.arange(length, device=self.device)[None], prefilled, None)
            store.admit(prefilled, [0, 0])
            found = self(more, torch.full_like(more, length), store.cache, None)
        # Models with a state of their own fail in ways of their own.
        except Exception:
            return False
        expected = own_logits(self.model, input_ids=torch.cat([ids.expand(2, -1), more], 1))[:, -1]
        gap = (found.float().log_softmax(-1) - expected.float().log_softmax(-1)).abs()
        return bool(gap.max() < SAME) if expected.dtype == torch.float32 else bool(gap.mean() < ROUNDED)


@dataclass
class _Row:
    """An answer in flight."""

    answer: int
    prompt_length: int
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.prompt_length + len(self.ids)


@dataclass
class _Prefilled:
    """Prompts whose answers have not all started.

    cache: of these prompts; logits: [rows, V], after each prompt; waiting: (row of the cache, number of the answer).
    """

    cache: Any
    logits: Tensor
    waiting: list[tuple[int, int]]


@dataclass
class Continuing:
    """Texts that go on: the turns of episodes, for which `prompts` are the whole texts so far.

    limits: most tokens of each answer; kept: by the number of the answer, what the model computed of the beginning of
    its text, and in the end of the whole text without its last token; done: called with an answer once it is done.
    """

    limits: Sequence[int]
    kept: list[Kept | None]
    done: Callable[[int, Answer], None]


class Decoding:
    """The state of one call. Answer number i·n + j is the j-th to prompt i."""

    def __init__(
        self,
        forward: Forward,
        prompts: Sequence[Tensor],
        n: int,
        sampling: Sampling,
        seeds: list[int],
        *,
        eos_ids: frozenset[int],
        pad_id: int,
        stopped: StopStrings,
        max_batch: int,
        progress: Callable[[int, int], None] | None = None,
        continuing: Continuing | None = None,
    ):
        self.forward, self.prompts, self.n, self.sampling, self.seeds = forward, prompts, n, sampling, seeds
        self.eos_ids, self.pad_id, self.stopped, self.progress = eos_ids, pad_id, stopped, progress
        self.continuing = continuing
        self.max_batch = min(max_batch, n * len(prompts))
        self.store = forward.rows(self.max_batch)
        # Prompts of similar length share a batch, and the block for the first is wide enough for the others.
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
        self.prefilled: deque[_Prefilled] = deque()
        self.rows: list[_Row] = []
        self.logits = torch.empty(0)
        self.finished: dict[int, Answer] = {}
        self.longest, self.tokens = sampling.max_new_tokens, 0

    def run(self) -> list[Answer]:
        """All answers, those to one prompt adjacent, in the order of the prompts."""
        while self.rows or self.prefilled or self.queue:
            self._refill()
            self._choose()
            if self.rows:
                self._step()
        return within([self.finished[i] for i in range(len(self.prompts) * self.n)], self.sampling.budget)

    def _refill(self) -> None:
        free = self.max_batch - len(self.rows)
        if self.rows and (not self.store.together or free < self.max_batch * REFILL_SHARE):
            return
        while free and (self.prefilled or self.queue):
            if not self.prefilled:
                self.prefilled.append(self._prefill(math.ceil(free / self.n)))
            group = self.prefilled[0]
            starting, group.waiting = group.waiting[:free], group.waiting[free:]
            self._admit(group, starting)
            free -= len(starting)
            if not group.waiting:
                self.prefilled.popleft()
            if not self.store.together:
                return

    def _prefill(self, count: int) -> _Prefilled:
        """Runs up to `count` prompts from the queue, the longest first, padded on the left."""
        chosen = [self.queue.popleft()]
        width = len(self.prompts[chosen[0]])
        count = min(count, PREFILL_TOKENS // width) if self.store.together else 1
        while self.queue and len(chosen) < count:
            chosen.append(self.queue.popleft())
        device, (cache, known) = self.forward.device, self._known(chosen, width)
        ids = torch.full((len(chosen), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, width - len(self.prompts[i]) :] = self.prompts[i]
            mask[row, width - len(self.prompts[i]) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:].to(device)
        logits = self.forward(ids[:, known:].to(device), positions, cache, None if mask.all() else mask.to(device))
        waiting = [(row, i * self.n + j) for row, i in enumerate(chosen) for j in range(self.n)]
        return _Prefilled(cache, logits, waiting)

    def _known(self, chosen: list[int], width: int) -> tuple[Any, int]:
        """A cache for these prompts, and how many of its `width` columns are there already.

        So many tokens are computed of all of them as the one that has the most new ones needs, so that no row has a
        gap.
        """
        kept = [self.continuing.kept[i * self.n] for i in chosen] if self.continuing is not None else [None]
        known = [text for text in kept if text is not None]
        if len(known) < len(kept):
            return self.store.new_prefill_cache(), 0
        assert isinstance(self.store, RollingRows)
        new = max(len(self.prompts[i]) - text[0][0].shape[1] for i, text in zip(chosen, known, strict=True))
        if new >= width:
            return self.store.new_prefill_cache(), 0
        return self.store.given_back(known, [max(0, len(self.prompts[i]) - new) for i in chosen]), width - new

    def _admit(self, group: _Prefilled, starting: list[tuple[int, int]]) -> None:
        sources = [row for row, _ in starting]
        self.store.admit(group.cache, sources)
        new = group.logits[torch.tensor(sources, device=group.logits.device)]
        self.logits = torch.cat([self.logits, new]) if self.rows else new
        length = 0 if self.sampling.greedy else self.sampling.max_new_tokens
        self.rows += [
            _Row(answer, len(self.prompts[answer // self.n]), uniform_stream(self.seeds[answer], length))
            for _, answer in starting
        ]

    def _choose(self) -> None:
        """One more token for every row; rows that end leave the batch, and the last rows take their places."""
        numbers = [0.0 if self.sampling.greedy else row.uniforms[len(row.ids)] for row in self.rows]
        uniforms = torch.tensor(numbers, dtype=torch.float64).to(self.logits.device)
        ids, logps = choose(self.logits, uniforms, self.sampling)
        chosen = agreed((ids.tolist(), logps.tolist())) if self.forward.is_shared else (ids.tolist(), logps.tolist())
        for row, token, logp in zip(self.rows, *chosen, strict=True):
            if not math.isfinite(logp):
                raise self._not_finite(row)
            row.ids.append(token)
            row.logps.append(logp)
        self._spend(len(self.rows))
        going = [self._goes_on(row, place) for place, row in enumerate(self.rows)]
        count = sum(going)
        if count == len(self.rows):
            return
        order, last = list(range(count)), iter(i for i in range(count, len(going)) if going[i])
        order = [i if going[i] else next(last) for i in order]
        self.rows = [self.rows[i] for i in order]
        self.store.keep(order)
        if self.progress is not None:
            self.progress(len(self.finished), len(self.prompts) * self.n)

    def _spend(self, tokens: int) -> None:
        """Lowers the length limit once the budget is spent. Answers that have not begun do not count."""
        self.tokens += tokens
        budget = self.sampling.budget * len(self.prompts) * self.n
        if budget and self.tokens > budget:
            lengths = [len(answer.completion) for answer in self.finished.values()] + [
                len(row.ids) for row in self.rows
            ]
            self.longest = min(self.longest, common_length(lengths, budget) or self.longest)

    def _not_finite(self, row: _Row) -> ZooError:
        prompt, answer = divmod(row.answer, self.n)
        return ZooError(
            f"The model's logits are not finite after {row.length} tokens of prompt {prompt + 1}, answer "
            f"{answer + 1}, so no token can be drawn: the weights have diverged, or the precision overflows.",
            "Go back to an earlier checkpoint with a lower lr, or use 32-true precision.",
        )

    def _goes_on(self, row: _Row, place: int) -> bool:
        """Whether the row at a place of the batch needs another token; a finished row is stored as an `Answer`."""
        ended = row.ids[-1] in self.eos_ids or self.stopped(row.ids)
        longest = self.longest if self.continuing is None else self.continuing.limits[row.answer]
        if not ended and len(row.ids) < longest:
            return True
        prompt = self.prompts[row.answer // self.n]
        logps = torch.tensor(row.logps, dtype=torch.float32)
        answer = Answer.of(prompt.tolist(), row.ids, ended=ended, cut=not ended, behaviour=logps)
        self.finished[row.answer] = answer
        if self.continuing is not None:
            # The last token was chosen, and not computed.
            self.continuing.kept[row.answer] = self.store.taken(place, row.length - 1)
            self.continuing.done(row.answer, answer)
        return False

    def _step(self) -> None:
        """Feeds the chosen tokens and stores the logits after them."""
        device = self.forward.device
        lengths = [row.length for row in self.rows]
        ids = torch.tensor([row.ids[-1:] for row in self.rows], device=device)
        positions = torch.tensor(lengths, device=device)[:, None] - 1
        mask = self.store.step(lengths, device)
        self.logits = self.forward(ids, positions, self.store.cache, mask)
        self.store.advance()
