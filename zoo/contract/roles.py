"""The models of a run as plugins see them, for type checkers and editors: the methods of each role.

The arguments of hooks have these interfaces; the classes behind them are in `zoo.models`.
`tests/test_contract_types.py` keeps the arguments of both equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.judges.constitution import Principle
    from zoo.rollout.engine import Sampling
    from zoo.values.types import Answer, Answers, StepScores, TokenLogps, TopLogps

Message = Mapping[str, Any]
Prompt = str | Sequence[Message] | Mapping[str, Any]
"""A text, a list of messages, or an encoded record."""


class Tokenizer(Protocol):
    """The part of the Hugging Face tokenizer that a plugin may rely on."""

    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int] | Tensor, *, skip_special_tokens: bool = False) -> str: ...


class Scorer(Protocol):
    """A language model that gives log-probabilities of answers."""

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
        """`TokenLogps` of one `Answers`, or a tuple for several. Answers to one prompt share its computation.

        temperature: divides the logits; None for the run's sampling temperature in an online run, else 1. entropy: also
        give it per token. noise: NEFTune's α, on the embeddings, only in training.
        """
        ...


class Writer(Scorer, Protocol):
    """A language model that can also write answers, in `prepare` and `rollout`."""

    def generate(self, prompts: Sequence[Prompt], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt, adjacent to each other. n: None for the run's answers_per_prompt.

        sampling: fields of `Sampling` that differ from the run's options.
        """
        ...

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """The texts of answers, without special tokens and white space at the ends."""
        ...

    def answer(self, prompt: Prompt | None, text: str, ended: bool = True) -> Answer:
        """A text as the assistant's whole answer to a prompt, with the chat template; plain text if the prompt is None.

        ended=False: the text was cut off, so the answer has no end-of-turn token to learn.
        """
        ...

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """Positions of the tokens that end the non-blank lines of each completion; the last is its end."""
        ...

    def more_prompts(self, count: int, besides: Sequence[Prompt]) -> list[Any]:
        """Up to `count` random encoded prompts of the training data that are not in `besides`."""
        ...

    @property
    def sampling(self) -> Sampling:
        """The run's sampling settings."""
        ...


class Policy(Writer, Protocol):
    """The model that is trained: a language model, or with `head = "scalar"` a scorer, which has only `scores`."""

    @overload
    def scores(self, answers: Answers, /) -> Tensor: ...
    @overload
    def scores(self, answers: Answers, /, *, at: Sequence[Sequence[int]]) -> StepScores: ...
    @overload
    def scores(self, first: Answers, second: Answers, /) -> tuple[Tensor, Tensor]: ...
    @overload
    def scores(self, *answers: Answers) -> Tensor | tuple[Tensor, ...]: ...
    def scores(
        self, *answers: Answers, at: Sequence[Sequence[int]] | None = None
    ) -> Tensor | tuple[Tensor, ...] | StepScores:
        """The reward of each answer, float32 [B], or a tuple for several `Answers`.

        at: positions in the completion of each answer; then the result is the scores after these tokens, as
        `StepScores`.
        """
        ...

    def divergence(
        self, answers: Answers, teacher: Frozen | TopLogps, *, kind: Literal["forward_kl", "reverse_kl", "jsd"],
        beta: float = 0.5, temperature: float | None = None, top_k: int | None = None,
    ) -> Tensor:  # fmt: skip
        """How far the policy p is from a frozen model q at each completion token, float32 [B, T], with gradient.

        kind: forward_kl is KL(q ‖ p), reverse_kl KL(p ‖ q), jsd the generalised Jensen-Shannon divergence of
        arXiv:2306.13649 with β = beta. temperature: divides the logits of both; None as for `logps`. top_k: the frozen
        model's likeliest words, all others count as one; None for all words.
        """
        ...

    def normalize(self, answers: Sequence[Answer], mean: float = 0.0, std: float | None = None) -> None:
        """Shift the reward, and scale it if `std` is given, so that these answers get that mean (and std)."""
        ...


class Frozen(Scorer, Protocol):
    """A language model that is not trained, such as the reference. Its scores have no gradient."""

    def generate(self, prompts: Sequence[Prompt], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt by this model, as the policy's `generate`."""
        ...

    def renew(self) -> None:
        """Take the policy's present weights. Checkpoints keep them, and a resume brings them back.

        Raises PluginError for a role of the core: an algorithm renews those of its own.
        """
        ...


class Critic(Protocol):
    """Estimates the value of a state; trained together with the policy."""

    def values(self, answers: Answers) -> Tensor:
        """V of the state before each completion token, float32 [B, T], 0 where no token counts."""
        ...


class Judge(Protocol):
    """A model that compares and grades answers."""

    @property
    def name(self) -> str: ...
    def prefer(
        self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str], *,
        principle: str | Principle | Sequence[str | Principle] | None = None, chain_of_thought: bool = False,
        clamp: tuple[float, float] | None = None,
    ) -> Tensor:  # fmt: skip
        """The probability that a is better than b, float32 [B], averaged over both orders; NaN if there is none."""
        ...

    def rate(self, prompts: Sequence[Prompt], answers: Sequence[str], *, chain_of_thought: bool = False) -> Tensor:
        """The expected grade of each answer from 1 to 10, float32 [B]; NaN if there is none."""
        ...


class Models(Protocol):
    """The roles of a run. Only roles that the algorithm declares in `needs` exist; any other raises an error."""

    training: bool
    """False while held-out data is scored."""

    @property
    def policy(self) -> Policy: ...
    @property
    def reference(self) -> Frozen: ...
    @property
    def teacher(self) -> Frozen: ...
    @property
    def critic(self) -> Critic: ...
    @property
    def judge(self) -> Judge: ...
    def __contains__(self, role: str, /) -> bool: ...
    def __getitem__(self, role: str, /) -> Frozen: ...


class Reward(Protocol):
    """The run's reward, which `rollout` gets as `score`."""

    def __call__(self, answers: Answers, unfinished: bool = False, instead_of: Answers | None = None) -> Tensor:
        """The reward of each answer, float32 [B] on the policy's device; NaN where it is missing.

        unfinished: the answers are only beginnings, which the rollout's statistics leave out; instead_of: answers that
        were scored before and that these replace.
        """
        ...
