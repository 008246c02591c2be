"""The models an algorithm talks to: `models.policy`, `models.reference`. Only declared roles exist."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.models.layout import counted
from zoo.models.parts import logps_in_parts
from zoo.models.reference_cache import ReferenceCache, answer_key
from zoo.models.scoring import States, balance_of, predicting_states, score_answers, split
from zoo.models.snapshot import Snapshot
from zoo.values.packing import pack
from zoo.values.types import Answer, Answers, TokenLogps, missing_role


class Scorer:
    """A model that gives log-probs of answers.

    temperature: divides the logits where a call names none, that of the run's sampling in an online run. micro_tokens:
    while a rollout is made, the tokens of one forward pass; its answers are then scored in parts, shared out among the
    processes.
    """

    micro_tokens: int | None = None

    def __init__(self, model: Any, layout: str, temperature: float = 1.0):
        self.model = model
        self.layout = layout
        self.temperature = temperature
        self.balance = balance_of(model)

    @overload
    def logps(
        self, answers: Answers, /, *, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps: ...
    @overload
    def logps(
        self, first: Answers, second: Answers, /, *, temperature: float | None = None, entropy: bool = False,
        noise: float = 0.0,
    ) -> tuple[TokenLogps, TokenLogps]: ...  # fmt: skip
    @overload
    def logps(
        self, first: Answers, second: Answers, third: Answers, /, *more: Answers, temperature: float | None = None,
        entropy: bool = False, noise: float = 0.0,
    ) -> tuple[TokenLogps, ...]: ...  # fmt: skip
    def logps(
        self, *answers: Answers, temperature: float | None = None, entropy: bool = False, noise: float = 0.0
    ) -> TokenLogps | tuple[TokenLogps, ...]:
        """`TokenLogps` of each argument: one for one, a tuple for several. Answers of one prompt share its compute.

        temperature: divides the logits. entropy: of each token too. noise: NEFTune's α, on the embeddings in training.
        """
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


class SharedStates(NamedTuple):
    """The hidden states of the policy's last pass, what it was over, and the version of the weights."""

    answers: list[Answer]
    version: tuple[bool, int]
    states: States


class Policy(Scorer):
    """The model that learns. make_writer: makes what it writes answers with (zoo.rollout.writer); None: it does not."""

    def __init__(
        self, model: Any, layout: str, temperature: float = 1.0, make_writer: Callable[[Policy], Any] | None = None
    ):
        super().__init__(model, layout, temperature)
        self.writer: Any = None if make_writer is None else make_writer(self)
        self._shares_states = False
        self._shared: SharedStates | None = None
        self._frozen_copy: Reference | None = None

    def share_states(self) -> None:
        """Keep the hidden states of each pass for a head that reads the same ones: it needs no pass of its own."""
        self._shares_states = True

    @contextlib.contextmanager
    def equal_to(self, frozen_copy: Reference) -> Iterator[None]:
        """The weights of both are the same in here: what one pass computes is kept as the reference's scores too."""
        self._frozen_copy = frozen_copy
        try:
            yield
        finally:
            self._frozen_copy = None

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        # States that no head has read are dropped first: they hold the memory of a whole pass.
        self._shared = None
        if not self._shares_states or not answers or options["noise"]:
            scored = super()._score(answers, **options)
            if self._frozen_copy is not None:
                self._frozen_copy.learn(answers, scored, **options)
            return scored
        states = predicting_states(self.model, answers, self.layout, self.balance)
        self._shared = SharedStates(list(answers), self._version(), states)
        return score_answers(self.model, answers, self.layout, states=states, **options)

    def states(self, answers: Sequence[Answer]) -> States:
        """The hidden states that predict the counted tokens.

        They are those of the last pass if it was over the same answers with the same weights, and are given once.
        """
        shared, self._shared = self._shared, None
        if shared is not None and shared.version == self._version():
            if list(map(id, shared.answers)) == list(map(id, answers)):
                return shared.states
        return predicting_states(self.model, answers, self.layout, self.balance)

    def _version(self) -> tuple[bool, int]:
        """What a pass depends on besides the answers: whether it has a gradient, and the version of the weights."""
        return torch.is_grad_enabled(), sum(parameter._version for parameter in self.model.parameters())

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt, side by side: encoded records, message lists or strings.

        n: by default the run's answers_per_prompt; sampling: fields of `Sampling` that differ from the run's options.
        """
        return self._required_writer().generate(prompts, n, **sampling)

    def more_prompts(self, count: int, besides: Sequence[Any]) -> list[Any]:
        """Up to `count` encoded prompts of the training data, drawn at random from all but those of `besides`."""
        return self._required_writer().more_prompts(count, besides)

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """What answers say, without special tokens and white space at the ends."""
        return self._required_writer().texts(answers)

    def answer(self, prompt: Any, text: str, ended: bool = True) -> Answer:
        """A text as the assistant's whole answer to a prompt, tokenised by the chat template; to None, plain text.

        ended=False: it was cut, and the end of the turn is not there to be learned.
        """
        return self._required_writer().answer(prompt, text, ended)

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """Where the lines of each completion end that say something, as positions of tokens; the last ends it."""
        return self._required_writer().line_ends(answers)

    @property
    def sampling(self) -> Any:
        """How the run draws answers, a `Sampling`."""
        return self._required_writer().sampling

    def _required_writer(self) -> Any:
        if self.writer is None:
            raise ZooError("The policy writes no answers here.", "It does in the hooks prepare and rollout of a run.")
        return self.writer

    def scores(self, *answers: Answers, **options: Any) -> Any:
        raise ZooError(
            "This algorithm's policy is a language model, which gives log-probabilities and no scores.",
            'Declare head = "scalar", or use models.policy.logps(answers).',
        )


class Reference(Scorer):
    """The frozen model. Its scores are looked up by content, and computed without gradient where they are missing.

    load: makes the model when it is first needed, so that a run whose scores are all cached never holds a second model.
    borrow: a context in which `model` is the reference (its adapters off).
    """

    def __init__(
        self,
        load: Callable[[], Any],
        layout: str,
        cache: ReferenceCache | None,
        borrow: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        temperature: float = 1.0,
    ):
        self._load, self._model = load, None
        self.temperature = temperature
        self.layout, self.cache, self._borrow = layout, cache, borrow

    @property
    def model(self) -> Any:  # type: ignore[override]
        if self._model is None:
            self._model = self._load()
            self.balance = balance_of(self._model)
        return self._model

    def stand_in(self, model: Any) -> None:
        """Score with another model that has the same weights for now, such as the policy before its first step."""
        self._model = model
        self.balance = balance_of(model)

    def follow(self, snapshot: Snapshot) -> None:
        """Score with a snapshot of the policy from now on."""
        self.stand_in(snapshot.model)
        self._load, self._borrow, self.cache = lambda: snapshot.model, snapshot.restored, None

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
        cached = self.cache.get(keys)
        logps = scored.per_token.detach()
        self._keep({key: logps[i][scored.mask[i]] for i, key in enumerate(keys) if key not in cached})

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        if self.cache is None or options["temperature"] != 1.0 or options["entropy"]:
            return self._compute(answers, **options)
        keys = [answer_key(answer) for answer in answers]
        logps = self.cache.get(keys)
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
        with self._borrow():
            options.pop("noise", None)
            model = self.model
            return score_answers(model, answers, self.layout, balance=self.balance, **options)

    def warm(self, answers: Sequence[Answer], micro_tokens: int) -> Iterator[tuple[int, int]]:
        """Score every answer that is not cached, similar ones together; yields (done, total) after each part."""
        assert self.cache is not None
        unique = {answer_key(answer): answer for answer in answers}
        keys = list(unique)
        cached = self.cache.get(keys)
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
