"""The models of a run as a plugin sees them, for type checkers and editors: what each role can be asked.

What a hook is handed behaves so; the classes behind it stand in `zoo.models`. `tests/test_contract_types.py` holds
both to the same arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.judges.constitution import Principle
    from zoo.rollout.engine import Sampling
    from zoo.values.types import Answer, Answers, StepScores, TokenLogps

Message = Mapping[str, Any]
Prompt = str | Sequence[Message] | Mapping[str, Any]
"""A text, a list of messages, or an encoded record."""


class Tokenizer(Protocol):
    """What a plugin may rely on of the Hugging Face tokenizer."""

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
        """`TokenLogps` of one `Answers`, a tuple of them for several. Answers to one prompt share its compute.

        temperature: divides the logits; None for that of the run's sampling in an online run, else 1. entropy: per
        token, too. noise: NEFTune's α, on the embeddings, in training alone.
        """
        ...


class Writer(Scorer, Protocol):
    """A language model that writes answers too, in `prepare` and `rollout`."""

    def generate(self, prompts: Sequence[Prompt], n: int | None = None, **sampling: Any) -> Answers:
        """`n` answers to each prompt, side by side. n: None for the run's answers_per_prompt.

        sampling: fields of `Sampling` that differ from the run's options.
        """
        ...

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """What answers say, without special tokens and white space at the ends."""
        ...

    def answer(self, prompt: Prompt | None, text: str, ended: bool = True) -> Answer:
        """A text as the assistant's whole answer to a prompt, by the chat template; to None, plain text.

        ended=False: it was cut, and the end of the turn is not there to be learned.
        """
        ...

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """Where the lines of each completion end that say something, as positions of tokens; the last ends it."""
        ...

    def more_prompts(self, count: int, besides: Sequence[Prompt]) -> list[Any]:
        """Up to `count` encoded prompts of the training data, drawn at random from all but those of `besides`."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How the run draws answers."""
        ...


class Policy(Writer, Protocol):
    """The model that is trained: a language model, or with `head = "scalar"` a scorer, which has `scores` alone."""

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
        """The reward of each answer, float32 [B], a tuple for several `Answers`.

        at: for each answer, positions in its completion; then the scores after these tokens, as `StepScores`.
        """
        ...

    def normalize(self, answers: Sequence[Answer], mean: float = 0.0, std: float | None = None) -> None:
        """Shift the reward, and scale it if `std` is given, so that these answers get that mean (and std)."""
        ...


class Frozen(Scorer, Protocol):
    """A language model that is not trained, such as the reference. Its scores carry no gradient."""


class Critic(Protocol):
    """What a state is worth; trained beside the policy."""

    def values(self, answers: Answers) -> Tensor:
        """V of the state before each completion token, float32 [B, T], 0 where no token counts."""
        ...


class Judge(Protocol):
    """A model that prefers and grades."""

    @property
    def name(self) -> str: ...
    def prefer(
        self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str], *,
        principle: str | Principle | Sequence[str | Principle] | None = None, chain_of_thought: bool = False,
        clamp: tuple[float, float] | None = None,
    ) -> Tensor:  # fmt: skip
        """The probability that a is better than b, float32 [B], both orders averaged; NaN where there is none."""
        ...

    def rate(self, prompts: Sequence[Prompt], answers: Sequence[str], *, chain_of_thought: bool = False) -> Tensor:
        """The expected grade of each answer from 1 to 10, float32 [B]; NaN where there is none."""
        ...


class Models(Protocol):
    """The roles of a run. Only those that the algorithm declares in `needs` are there; another one raises."""

    training: bool
    """False while held-out data is scored."""

    @property
    def policy(self) -> Policy: ...
    @property
    def reference(self) -> Frozen: ...
    @property
    def critic(self) -> Critic: ...
    @property
    def judge(self) -> Judge: ...
    def __contains__(self, role: str, /) -> bool: ...
    def __getitem__(self, role: str, /) -> Frozen: ...


class Reward(Protocol):
    """The run's reward, which `rollout` is handed as `score`."""

    def __call__(self, answers: Answers, unfinished: bool = False, instead_of: Answers | None = None) -> Tensor:
        """The reward of each answer, float32 [B] on the policy's device; NaN where it is missing.

        unfinished: these are beginnings of answers, which no number of the rollout counts; instead_of: answers that
        were scored before and that these stand in for.
        """
        ...
