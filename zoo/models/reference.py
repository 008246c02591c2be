"""The frozen model of a run, whose scores are cached."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import PluginError
from zoo.libraries.turns import keep_seat, seat
from zoo.models.layout import counted
from zoo.models.reference_cache import ReferenceCache, answer_key
from zoo.models.scorer import Scorer
from zoo.models.scoring import balance_of, score_answers
from zoo.models.snapshot import Snapshot
from zoo.options.roles import ROLES
from zoo.processes import agreed
from zoo.values.packing import pack
from zoo.values.types import Answer, Answers, TokenLogps


class Reference(Scorer):
    """The frozen model. Its scores are looked up by content, and computed without gradient where they are missing.

    load: makes the model when it is first needed, so that a run whose scores are all cached never holds a second model.
    borrow: a context in which `model` is the reference (its adapters off). policy: the role `policy` of the run, whose
    weights it may take; role: its own.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        layout: str,
        cache: ReferenceCache | None,
        borrow: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        temperature: float = 1.0,
        policy: Any = None,
        role: str = "",
    ):
        self._load, self._model, self._role = load, None, role
        self._policy = policy
        self._snapshot: Snapshot | None = None
        self.temperature = temperature
        self.layout, self.cache, self._borrow = layout, cache, borrow
        self._first = (load, borrow)
        self._seat = keep_seat(self)

    @property
    def model(self) -> Any:  # type: ignore[override]
        if self._model is None:
            with seat(self._seat):
                self._model = self._load()
            self.balance = balance_of(self._model)
        return self._model

    def stand_in(self, model: Any) -> None:
        """Score with another model that has the same weights for now, such as the policy before its first step."""
        self._model = model
        self.balance = balance_of(model)

    def renew(self) -> None:
        """What an algorithm calls for `follow_policy`. Raises PluginError where the role is one of the core's."""
        if self._role in ROLES:
            raise PluginError(
                f"The algorithm renews the {self._role}, a role of the core, whose weights stay what its option says.",
                'Declare a role of your own, own_roles = {"opponent": Role()}, and renew that: docs/contract.md.',
            )
        self.follow_policy()

    def follow_policy(self) -> None:
        """Take the policy's present weights, which later steps of the policy do not change. Checkpoints keep them."""
        self._follow(Snapshot(self._policy.model))

    def state(self) -> dict[str, Tensor] | None:
        """The weights that it took, for a checkpoint; None: it has its first ones. All processes ask together."""
        return None if self._snapshot is None else self._snapshot.whole()

    def load_state(self, weights: dict[str, Tensor] | None) -> None:
        if weights is not None:
            self._follow(Snapshot(self._policy.model, weights))
        elif self._snapshot is not None:
            self._follow(None)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt by these weights, as `zoo.models.roles.Policy.generate` gives the policy's."""
        return self._policy.required_writer().generate_by(self, prompts, n, **sampling)

    def _follow(self, snapshot: Snapshot | None) -> None:
        """Score with a snapshot of the policy from now on; None: with the first weights again."""
        self._snapshot = snapshot
        if snapshot is None:
            self.release()
            self._load, self._borrow = self._first
            return
        self.stand_in(snapshot.model)
        self._load, self._borrow, self.cache = lambda: snapshot.model, snapshot.restored, None

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Any]:
        """The model with the weights that it scores with."""
        with self._borrow():
            yield self.model

    def stop_caching(self) -> None:
        """Compute every score from now on: what a policy writes in training is never seen again."""
        self.cache = None

    def release(self) -> None:
        """Free the model; it is loaded again when a score is missing."""
        self._model = None

    def learn(self, answers: Sequence[Answer], scored: TokenLogps, temperature: float, noise: float, **_: Any) -> None:
        """Cache the scores that a model with the same weights computed, where they are missing."""
        if self.cache is None or temperature != 1.0 or noise:
            return
        keys = [answer_key(answer) for answer in answers]
        cached = self._cached(keys)
        logps = scored.per_token.detach()
        self._keep({key: logps[i][scored.mask[i]] for i, key in enumerate(keys) if key not in cached})

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        if self.cache is None or options["temperature"] != 1.0 or options["entropy"]:
            return self._compute(answers, **options)
        keys = [answer_key(answer) for answer in answers]
        logps = self._cached(keys)
        missing = {key: answer for key, answer in zip(keys, answers, strict=True) if key not in logps}
        if missing:
            logps |= self._compute_and_keep(missing)
        device = answers[0].completion.device
        return _token_logps([logps[key] for key in keys], counted(answers).to(device))

    def _compute_and_keep(self, missing: dict[bytes, Answer]) -> dict[bytes, Tensor]:
        scored = self._compute(list(missing.values()))
        values = {key: scored.per_token[i][scored.mask[i]].cpu() for i, key in enumerate(missing)}
        self._keep(values)
        return values

    def _cached(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The scores that are there: for a tensor group, which computes the others together, what its first finds."""
        assert self.cache is not None
        return agreed(self.cache.get(keys))

    def _keep(self, values: dict[bytes, Tensor]) -> None:
        assert self.cache is not None
        try:
            self.cache.put(values)
        except sqlite3.OperationalError:
            # With a full disk this run goes on; later runs compute the scores again.
            self.cache = ReferenceCache(None, "")
            self.cache.put(values)

    @torch.no_grad()
    def _compute(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        options.pop("noise", None)
        with self.borrowed() as model:
            return score_answers(model, answers, self.layout, balance=self.balance, **options)

    def warm(self, answers: Sequence[Answer], micro_tokens: int) -> Iterator[tuple[int, int]]:
        """Score every answer that is not cached, similar ones together; yields (done, total) after each part."""
        assert self.cache is not None
        unique = {answer_key(answer): answer for answer in answers}
        keys = list(unique)
        cached = self._cached(keys)
        total, done = len(unique) - len(cached), 0
        # Cached answers are left out after the parts are cut: a run that is killed here and starts again then scores
        # the rest beside the same answers as before, and gets the same last bits.
        for part in _parts(list(unique.values()), micro_tokens):
            missing = {keys[i]: unique[keys[i]] for i in part if keys[i] not in cached}
            if missing:
                done += len(self._compute_and_keep(missing))
                yield done, total


def _parts(answers: Sequence[Answer], micro_tokens: int) -> list[list[int]]:
    """Answers to one prompt lie side by side, short prompts first, so that rows fill and prompts are shared."""

    def place(i: int) -> tuple[int, list[int], int]:
        return len(answers[i].prompt), answers[i].prompt.tolist(), len(answers[i])

    return pack([sorted(range(len(answers)), key=place)], [len(answer) for answer in answers], micro_tokens)


def _token_logps(values: list[Tensor], mask: Tensor) -> TokenLogps:
    """Put the value of each counted token in its place, [B, T]."""
    per_token = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    per_token[mask] = torch.cat([value.to(mask.device) for value in values])
    return TokenLogps(per_token, mask)
