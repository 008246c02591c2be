"""The models an algorithm talks to: `models.policy`, `models.reference`. Only declared roles exist."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.models.layout import counted
from zoo.models.parts import logps_in_parts
from zoo.models.reference_cache import ReferenceCache, answer_key
from zoo.models.scoring import States, balance_of, predicting_states, score_answers, split
from zoo.models.snapshot import Snapshot
from zoo.values.types import Answer, Answers, Batch, TokenLogps, missing_role


class Scorer:
    """A model that gives log-probs of answers.

    noise belongs to training (NEFTune's α); temperature divides the logits, by default that of the run's sampling in
    an online run, else 1; entropy asks for per-token entropies. micro_tokens: while a rollout is made, the tokens of
    one forward pass; its answers are then scored in parts, shared out among the processes.
    """

    temperature = 1.0
    micro_tokens: int | None = None

    def __init__(self, model: Any, layout: str):
        self.model = model
        self.layout = layout
        self.balance = balance_of(model)

    @overload
    def logps(
        self, answers: Answers, /, *, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps: ...
    @overload
    def logps(
        self, first: Answers, second: Answers, /, *more: Answers, temperature: float | None = None,
        entropy: bool = False, noise: float = 0.0,
    ) -> tuple[TokenLogps, ...]: ...  # fmt: skip
    def logps(
        self, *answers: Answers, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps | tuple[TokenLogps, ...]:
        """`TokenLogps` of each argument: one for one, a tuple for several. Answers of one prompt share its compute."""
        joined = [answer for part in answers for answer in part]
        options = {"temperature": temperature or self.temperature, "entropy": entropy, "noise": noise}
        if self.micro_tokens is None:
            scored = self._score(joined, **options)
        else:
            scored = logps_in_parts(lambda part: self._score(part, **options), joined, self.micro_tokens)
        parts = split(scored, answers)
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        return score_answers(self.model, answers, self.layout, balance=self.balance, **options)


class Policy(Scorer):
    """The model that learns. writer: what it writes answers with, in runs where it does (zoo.rollout.writer)."""

    writer: Any = None
    lends_states = False
    """Whether a head on this model reads the states of the answers that were scored last, and spares a second pass."""
    twin: Reference | None = None
    """The reference, while the weights of both are the same: it is told what this model finds."""
    _lent: tuple[list[Answer], Any, States] | None = None

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        # What nobody asked for is let go first: it holds the memory of a whole pass.
        self._lent = None
        if not self.lends_states or not answers or options["noise"]:
            scored = super()._score(answers, **options)
            if self.twin is not None:
                self.twin.learn(answers, scored, **options)
            return scored
        states = predicting_states(self.model, answers, self.layout, self.balance)
        self._lent = (list(answers), self._moment(), states)
        return score_answers(self.model, answers, self.layout, states=states, **options)

    def states(self, answers: Sequence[Answer]) -> States:
        """Those at the counted tokens, of the last pass where it was over the same answers; they are lent once."""
        lent, self._lent = self._lent, None
        if lent is not None and lent[1] == self._moment() and list(map(id, lent[0])) == list(map(id, answers)):
            return lent[2]
        return predicting_states(self.model, answers, self.layout, self.balance)

    def _moment(self) -> tuple[bool, int]:
        """What a pass depends on besides the answers: whether it can be differentiated, and how far the weights are."""
        return torch.is_grad_enabled(), sum(parameter._version for parameter in self.model.parameters())

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt, side by side: encoded records, message lists or strings.

        n: by default the run's answers_per_prompt; sampling: fields of `Sampling` that differ from the run's options.
        """
        return self._pen().generate(prompts, n, **sampling)

    def more_prompts(self, count: int, besides: Sequence[Any]) -> list[Any]:
        """Up to `count` encoded prompts of the training data, drawn at random from all but those of `besides`."""
        return self._pen().more_prompts(count, besides)

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """What answers say, without special tokens and white space at the ends."""
        return self._pen().texts(answers)

    def answer(self, prompt: Any, text: str, ended: bool = True) -> Answer:
        """A text as the assistant's whole answer to a prompt, tokenised by the chat template; to None, plain text.

        ended=False: it was cut, and the end of the turn is not there to be learned.
        """
        return self._pen().answer(prompt, text, ended)

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """Where the lines of each completion end that say something, as positions of tokens; the last ends it."""
        return self._pen().line_ends(answers)

    @property
    def sampling(self) -> Any:
        """How the run draws answers, a `Sampling`."""
        return self._pen().sampling

    def _pen(self) -> Any:
        if self.writer is None:
            raise ZooError("The policy writes no answers here.", "It does in the hooks prepare and rollout of a run.")
        return self.writer

    def scores(self, *answers: Answers, **options: Any) -> Any:
        raise ZooError(
            "This algorithm's policy is a language model, which gives log-probabilities and no scores.",
            'Declare head = "scalar", or use models.policy.logps(answers).',
        )


class Reference(Scorer):
    """The frozen model. Scores are looked up by content first, and computed without gradient when they are new.

    borrow: a context in which `model` is the reference (its adapters off). load: makes the model when it is first
    needed, so that a run whose scores are all cached never holds a second model.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        layout: str,
        cache: ReferenceCache | None,
        borrow: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self._load, self._model = load, None
        self.layout, self.cache, self._borrow = layout, cache, borrow

    @property
    def model(self) -> Any:  # type: ignore[override]
        if self._model is None:
            self._model = self._load()
            self.balance = balance_of(self._model)
        return self._model

    def stand_in(self, model: Any) -> None:
        """Take another model with the same weights for now, such as the policy before its first step."""
        self._model = model
        self.balance = balance_of(model)

    def follow(self, snapshot: Snapshot) -> None:
        """Be what a snapshot of the policy says from now on, in the place of another model."""
        self.stand_in(snapshot.model)
        self._load, self._borrow, self.cache = lambda: snapshot.model, snapshot.worn, None

    def release(self) -> None:
        """Forget the model; it is loaded again if a score is missing."""
        self._model = None

    def learn(self, answers: Sequence[Answer], scored: TokenLogps, temperature: float, noise: float, **_: Any) -> None:
        """Keep, of what a model with the same weights found, the scores that were not known."""
        if self.cache is None or temperature != 1.0 or noise:
            return
        keys = [answer_key(answer) for answer in answers]
        known = self.cache.get(keys)
        found = scored.per_token.detach()
        self._keep({key: found[i][scored.mask[i]] for i, key in enumerate(keys) if key not in known})

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        if self.cache is None or options["temperature"] != 1.0 or options["entropy"]:
            return self._compute(answers, **options)
        keys = [answer_key(answer) for answer in answers]
        known = self.cache.get(keys)
        missing = {key: answer for key, answer in zip(keys, answers, strict=True) if key not in known}
        if missing:
            known |= self._remember(missing)
        device = answers[0].completion.device
        return _unravel([known[key] for key in keys], counted(answers).to(device))

    def _remember(self, missing: dict[bytes, Answer]) -> dict[bytes, Tensor]:
        scored = self._compute(list(missing.values()))
        values = {key: scored.per_token[i][scored.mask[i]].cpu() for i, key in enumerate(missing)}
        self._keep(values)
        return values

    def _keep(self, values: dict[bytes, Tensor]) -> None:
        assert self.cache is not None
        try:
            self.cache.put(values)
        except sqlite3.OperationalError:
            # A full disk costs the reuse by later runs, not this run.
            self.cache = ReferenceCache(None, "")
            self.cache.put(values)

    @torch.no_grad()
    def _compute(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        with self._borrow():
            options.pop("noise", None)
            model = self.model
            return score_answers(model, answers, self.layout, balance=self.balance, **options)

    def warm(self, answers: Sequence[Answer], micro_tokens: int) -> Iterator[tuple[int, int]]:
        """Score every answer that is not known yet, similar ones together; yields (done, total) as it goes."""
        assert self.cache is not None
        unique = {answer_key(answer): answer for answer in answers}
        known = self.cache.get(list(unique))
        total, done = len(unique) - len(known), 0
        # What is known is left out of the batches after they are cut: a run that was killed in here and starts again
        # then scores the rest side by side with the same answers as before, and gets the same last bits.
        for batch in _batches(unique, micro_tokens):
            missing = {key: answer for key, answer in batch.items() if key not in known}
            if missing:
                done += len(self._remember(missing))
                yield done, total


def _batches(answers: dict[bytes, Answer], micro_tokens: int) -> Iterator[dict[bytes, Answer]]:
    """Answers to one prompt lie side by side, short prompts first, so that rows fill and prompts are shared."""
    ordered = sorted(answers.items(), key=lambda item: (len(item[1].prompt), item[1].prompt.tolist(), len(item[1])))
    batch: dict[bytes, Answer] = {}
    tokens = 0
    for key, answer in ordered:
        if batch and tokens + len(answer) > micro_tokens:
            yield batch
            batch, tokens = {}, 0
        batch[key] = answer
        tokens += len(answer)
    if batch:
        yield batch


def _unravel(values: list[Tensor], mask: Tensor) -> TokenLogps:
    """Put one value per counted token back to its place, [B, T]."""
    per_token = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    per_token[mask] = torch.cat([value.to(mask.device) for value in values])
    return TokenLogps(per_token, mask)


class Models:
    """The roles of a run by name; touching one that was not declared raises."""

    def __init__(self, **roles: Any):
        self._roles = roles
        self.used: set[str] = set()
        self.training = True
        """False while held-out data is scored: no noise then."""

    def __getattr__(self, role: str) -> Any:
        if role.startswith("_"):
            raise AttributeError(role)
        if role not in self._roles:
            raise missing_role(role, list(self._roles))
        self.used.add(role)
        return self._roles[role]

    def __getitem__(self, role: str) -> Any:
        """A role by its name, as `models.reference` is `models["reference"]`."""
        return getattr(self, role)

    def __contains__(self, role: str) -> bool:
        return role in self._roles

    def built(self, role: str) -> Any:
        """A role as the core handles it, which is no use by the algorithm."""
        return self._roles[role]

    def unused(self) -> list[str]:
        """The roles that were built and that the algorithm has not touched so far."""
        return [role for role in self._roles if role not in self.used]


def answers_in(batch: Any) -> list[Answer]:
    """Every answer that stands in a batch, in whichever field, alone or in a list of several to one prompt."""
    found: list[Answer] = []
    # As they are kept: what is asked of a batch itself comes padded.
    for value in (batch.fields if isinstance(batch, Batch) else batch).values():
        for one in value if isinstance(value, (list, Answers)) else ():
            found += [one] if isinstance(one, Answer) else list(one) if isinstance(one, Answers) else []
    return found
