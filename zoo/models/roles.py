"""The models an algorithm talks to: `models.policy`, `models.reference`. Only declared roles exist."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.contract.algorithm import missing_role
from zoo.errors import ZooError
from zoo.libraries.heads import measure_head
from zoo.libraries.sharding import own_part
from zoo.libraries.turns import in_pass
from zoo.models.comparing import Comparison, divergence_of
from zoo.models.divergence import Divergence, Kind
from zoo.models.reference import Reference
from zoo.models.scorer import Scorer
from zoo.models.scoring import Columns, States, columns, placed, predicting_states
from zoo.models.several import Several
from zoo.options.roles import ROLES, TRAINED
from zoo.values.top_logps import TopLogps
from zoo.values.types import Answer, Answers, TokenLogps

Frozen = Reference | Several
"""A frozen language model, or one for each domain."""


class SharedStates(NamedTuple):
    """The hidden states of the policy's last pass, what it was over, and the version of the weights."""

    answers: list[Answer]
    version: tuple[bool, int]
    states: States


class Policy(Scorer):
    """The model that learns. make_writer: makes what it writes answers with (zoo.rollout.writer); None: it does not.

    words: of its tokenizer, which frozen models have too; None where that is not known.
    """

    def __init__(
        self, model: Any, layout: str, temperature: float = 1.0, make_writer: Callable[[Policy], Any] | None = None,
        words: int | None = None,
    ):  # fmt: skip
        super().__init__(model, layout, temperature)
        self.words = words
        self.writer: Any = None if make_writer is None else make_writer(self)
        self._shares_states = False
        self._shared: SharedStates | None = None
        self._frozen_copies: Sequence[Reference] = ()

    def share_states(self) -> None:
        """Keep the hidden states of each pass for a head that reads the same ones: it needs no pass of its own."""
        self._shares_states = True

    @contextlib.contextmanager
    def equal_to(self, frozen_copies: Sequence[Reference]) -> Iterator[None]:
        """The weights of all are the same in here: what one pass computes is kept as the scores of the copies too."""
        self._frozen_copies = frozen_copies
        try:
            yield
        finally:
            self._frozen_copies = ()

    def _score(self, answers: Sequence[Answer], **options: Any) -> TokenLogps:
        # States that no head has read are dropped first: they hold the memory of a whole pass.
        self._shared = None
        if not self._shares_states or not answers or options["noise"]:
            scored = super()._score(answers, **options)
            for frozen_copy in self._frozen_copies:
                frozen_copy.learn(answers, scored, **options)
            return scored
        measure_head(self.model)
        states, of_tokens = in_pass(self.model, lambda: self._states_and_columns(answers, **options))
        self._shared = SharedStates(list(answers), self._version(), states)
        return placed(answers, states.rows, of_tokens)

    def divergence(
        self, answers: Answers, teacher: Frozen | TopLogps, *, kind: Kind, beta: float = 0.5,
        temperature: float | None = None, top_k: int | None = None,
    ) -> Tensor:  # fmt: skip
        """The divergence from a frozen model at each completion token, float32 [B, T], 0 where no token counts.

        kind, beta: as of `Divergence`; temperature: divides the logits of both; top_k: compare the teacher's likeliest
        words and all others as one. A `TopLogps` has words of its own, and is of temperature 1. Raises ZooError
        for other vocabularies and, with a `TopLogps`, other temperatures.
        """
        comparison = Comparison(Divergence(kind, beta), temperature or self.temperature, top_k, self.words)
        return divergence_of(self, answers, teacher, comparison)

    def _states_and_columns(
        self, answers: Sequence[Answer], temperature: float, entropy: bool, **_: Any
    ) -> tuple[States, Columns]:
        states = predicting_states(self.model, answers, self.layout, self.balance)
        return states, columns(self.model, states.rows, temperature, entropy, states=states)

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
        return torch.is_grad_enabled(), sum(own_part(p)._version for p in self.model.parameters())

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt, side by side: encoded records, message lists or strings.

        n: by default the run's answers_per_prompt; sampling: fields of `Sampling` that differ from the run's options.
        """
        return self.required_writer().generate(prompts, n, **sampling)

    def more_prompts(self, count: int, besides: Sequence[Any]) -> list[Any]:
        """Up to `count` encoded prompts of the training data, drawn at random from all but those of `besides`."""
        return self.required_writer().more_prompts(count, besides)

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """What answers say, without special tokens and white space at the ends."""
        return self.required_writer().texts(answers)

    def answer(self, prompt: Any, text: str, ended: bool = True) -> Answer:
        """A text as the assistant's whole answer to a prompt, tokenised by the chat template; to None, plain text.

        ended=False: it was cut, and the end of the turn is not there to be learned.
        """
        return self.required_writer().answer(prompt, text, ended)

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """Where the lines of each completion end that say something, as positions of tokens; the last ends it.

        In an environment that gives rewards: where the turns end that have one.
        """
        return self.required_writer().line_ends(answers)

    @property
    def sampling(self) -> Any:
        """How the run draws answers, a `Sampling`."""
        return self.required_writer().sampling

    def required_writer(self) -> Any:
        """What writes its answers. Raises ZooError where nothing does."""
        if self.writer is None:
            raise ZooError("The policy writes no answers here.", "It does in the hooks prepare and rollout of a run.")
        return self.writer

    def scores(self, *answers: Answers, **options: Any) -> Any:
        raise ZooError(
            "This algorithm's policy is a language model, which gives log-probabilities and no scores.",
            'Declare head = "scalar", or use models.policy.logps(answers).',
        )


class Models:
    """The roles of a run by name; touching one that was not declared raises."""

    def __init__(self, **roles: Any):
        self._roles = roles
        self.table: Sequence[str] = tuple(ROLES)
        """The roles that the algorithm may declare."""
        self.used: set[str] = set()
        self.training = True
        """False while held-out data is scored: no noise then."""

    def __getattr__(self, role: str) -> Any:
        if role.startswith("_"):
            raise AttributeError(role)
        if role not in self._roles:
            raise missing_role(role, list(self._roles), self.table)
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

    def frozen(self) -> dict[str, Frozen]:
        """The frozen language models, by role."""
        return {name: role for name, role in self._roles.items() if isinstance(role, Frozen)}

    def scoring(self) -> list[Any]:
        """The roles that make forward passes over answers: all but a judge, which reads texts."""
        return [self._roles[name] for name in self._roles if name in TRAINED or name in self.frozen()]

    def unused(self) -> list[str]:
        """The roles that were built and that the algorithm has not touched so far."""
        return [role for role in self._roles if role not in self.used]
