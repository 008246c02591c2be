"""Engines turn prompts into answers; this module has their interface and the engine inside the training process.

Any object with the interface `Engine` can replace the in-process engine, such as a client of a server: it gets token
ids, returns token ids, and reports the log-probabilities with which it sampled them. Plugins contribute engines by name
(hook `engines`), and `make_engine` makes the engine that a run asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.errors import PluginError, ZooError, nearest
from zoo.libraries.adapters import has_virtual_tokens
from zoo.libraries.architecture import evaluating, longest_text
from zoo.options.spelling import bind, parse
from zoo.rollout.cache import Kept
from zoo.rollout.decoding import Continuing, Decoding, Forward
from zoo.rollout.packing import packed
from zoo.rollout.sampling import Sampling, StopStrings, seeds
from zoo.values.types import Answer

__all__ = ["Engine", "EngineSetup", "InProcessEngine", "Sampling"]


@dataclass(frozen=True)
class EngineSetup:
    """What a run passes to its engine.

    model: the policy, on its device; eos_ids: ids that end an answer; pad_id: any valid id; tokenizer: for stop
    strings; progress: None, or called with (answers done, all answers).
    """

    model: Any
    eos_ids: frozenset[int]
    pad_id: int
    tokenizer: Any = None
    progress: Callable[[int, int], None] | None = None


class Turns(Protocol):
    """Episodes in an engine, within `Engine.episodes`."""

    at_once: int | None
    """Most episodes at a time; None for any number."""
    longest: int | None
    """Most tokens of an episode with its prompt; None for any number."""

    def __call__(
        self, numbers: Sequence[int], texts: Sequence[Tensor], limits: Sequence[int], seeds: Sequence[int],
        done: Callable[[int, Answer], None],
    ) -> None:  # fmt: skip
        """The next turn of each of these episodes.

        texts: all ids of an episode so far, int64; they begin with those of its turn before. limits: most tokens of
        each turn; seeds: of its random numbers. done: called with the number of an episode and its turn, in any order.
        """


class Engine(Protocol):
    """Generates answers. An engine with its own copy of the weights also has `remote` and `update`.

    An engine that can go on where an answer ended, in an episode of several turns, also has `episodes(sampling)`, a
    context manager that gives `Turns`; without it, it cannot be used with `--environment`.
    """

    remote: bool
    """Whether it computes elsewhere. Then its log-probabilities differ from the trainer's, and one process calls
    `update(model)` before a rollout, while the others wait, to give it the weights of `model` unless it has them
    already. `bound` and `beyond`, if it has them, are those of `zoo.rollout.correction.importance_weights`."""

    def generate(
        self, prompts: Sequence[Tensor], n: int, sampling: Sampling, generator: torch.Generator | None
    ) -> list[Answer]:
        """`n` answers to each prompt (int64 [P], at least one id), adjacent, in the order of the prompts.

        The ids of an answer are the generated ones, including its end-of-turn token. `ended`: it ended with an
        end-of-turn token or a stop string; `cut`: the length limit or the budget (see `zoo.rollout.budget`) ended it;
        `behaviour`: the float32 log-probabilities of softmax(logits / temperature) before top-k and top-p (a remote
        engine may give those after the filters). All tensors are on the CPU. Random numbers come only from `generator`,
        which advances by one draw per answer; greedy decoding needs none.
        """


class InProcessEngine:
    """Generates with a causal language model of transformers, with or without peft adapters.

    model: in any precision; for autocast, open the context around `generate`. The model is in eval mode while it
    generates, and returns to its former mode.
    eos_ids: ids that end an answer; pad_id: any valid id, never attended to; tokenizer: for stop strings.
    max_batch: most answers in flight, which bounds the memory; progress: called with (answers done, all answers)
    whenever answers are done.

    Neither `max_batch` nor the other prompts change an answer, except by the rounding of the logits, and if they share
    a budget.
    """

    remote = False

    def __init__(
        self,
        model: Any,
        *,
        eos_ids: Iterable[int],
        pad_id: int,
        tokenizer: Any = None,
        max_batch: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ):
        if max_batch < 1:
            raise ZooError(f"max_batch = {max_batch} is not possible.", "Set max_batch to at least 1.")
        if has_virtual_tokens(model):
            raise ZooError(
                "Prompt-learning adapters (prefix or prompt tuning) cannot generate here: they put "
                "virtual tokens before every prompt.",
                "Use a LoRA adapter.",
            )
        self.model = model
        self.eos_ids = frozenset(int(i) for i in eos_ids)
        self.pad_id = pad_id
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.progress = progress

    def generate(
        self,
        prompts: Sequence[Tensor],
        n: int = 1,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        drawn: Sequence[int] | None = None,
    ) -> list[Answer]:
        """See `Engine.generate`. drawn: the seed of each answer, in place of those from the generator.

        Raises ZooError when a prompt is empty or too long for the model.
        """
        sampling = sampling or Sampling()
        prompts = [prompt.cpu() for prompt in prompts]
        check_request(prompts, n, sampling, generator if drawn is None else drawn, longest_text(self.model))
        if not prompts:
            return []
        count = n * len(prompts)
        if drawn is None:
            drawn = [0] * count if generator is None else seeds(count, generator)
        with evaluating(self.model), torch.no_grad(), packed(self.model):
            return self._decoding(prompts, n, sampling, list(drawn)).run()

    @contextmanager
    def episodes(self, sampling: Sampling) -> Iterator[Turns]:
        """See `Engine`. A text that goes on keeps what the model computed of it, as long as the context is open."""
        with evaluating(self.model), torch.no_grad(), packed(self.model):
            yield _Episodes(self, sampling)

    def _decoding(
        self, prompts: Sequence[Tensor], n: int, sampling: Sampling, seeds: list[int],
        continuing: Continuing | None = None,
    ) -> Decoding:  # fmt: skip
        return Decoding(
            Forward(self.model),
            prompts,
            n,
            sampling,
            seeds,
            eos_ids=self.eos_ids,
            pad_id=self.pad_id,
            stopped=StopStrings(sampling.stop, self.tokenizer),
            max_batch=self.max_batch,
            progress=None if continuing else self.progress,
            continuing=continuing,
        )


class _Episodes:
    """Episodes of the in-process engine."""

    def __init__(self, engine: InProcessEngine, sampling: Sampling):
        self.engine, self.sampling = engine, sampling
        self.at_once: int | None = engine.max_batch
        self.longest = longest_text(engine.model)
        self._kept: dict[int, Kept | None] = {}

    def __call__(
        self, numbers: Sequence[int], texts: Sequence[Tensor], limits: Sequence[int], seeds: Sequence[int],
        done: Callable[[int, Answer], None],
    ) -> None:  # fmt: skip
        """See `Turns`."""
        texts = [text.cpu() for text in texts]
        check_texts(texts, limits, self.longest)
        kept = [self._kept.get(number) for number in numbers]
        continuing = Continuing(limits, kept, lambda i, answer: done(numbers[i], answer))
        n = _size_of_groups(texts)
        self.engine._decoding(texts[::n], n, self.sampling, list(seeds), continuing).run()
        # What belongs to episodes that have ended is not needed any more.
        self._kept = dict(zip(numbers, kept, strict=True))


def _size_of_groups(texts: Sequence[Tensor]) -> int:
    """How many equal texts always stand beside each other: the answers to one prompt, before their first turn."""
    sizes = {len(list(group)) for _, group in groupby(text.tolist() for text in texts)}
    return sizes.pop() if len(sizes) == 1 else 1


def local(setup: EngineSetup, *, max_batch: int = 64) -> InProcessEngine:
    """The in-process engine, on the model that is trained."""
    return InProcessEngine(
        setup.model,
        eos_ids=setup.eos_ids,
        pad_id=setup.pad_id,
        tokenizer=setup.tokenizer,
        max_batch=max_batch,
        progress=setup.progress,
    )


def check_request(
    prompts: Sequence[Tensor], n: int, sampling: Sampling, source: torch.Generator | Sequence[int] | None,
    limit: int | None,
) -> None:  # fmt: skip
    """Raises ZooError for requests that no engine can answer: empty prompts, or answers that could exceed `limit`.

    source: of the random numbers.
    """
    if n < 1:
        raise ZooError(f"n = {n} answers per prompt are not possible.", "Set n to at least 1.")
    if source is None and not sampling.greedy:
        raise ValueError("Sampling draws from the run's generator: pass one, or set temperature to 0.")
    check_texts(prompts, [sampling.max_new_tokens] * len(prompts), limit)


def check_texts(prompts: Sequence[Tensor], longest: Sequence[int], limit: int | None) -> None:
    """Raises ZooError for empty prompts, and for answers of so many tokens that could exceed `limit` with them."""
    for number, (prompt, max_new_tokens) in enumerate(zip(prompts, longest, strict=True), start=1):
        which = f"Prompt {number} of {len(prompts)}"
        if len(prompt) == 0:
            raise ZooError(f"{which} has no tokens.", "Remove it, or give it a text to continue.")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise ZooError(
                f"{which} has {len(prompt)} tokens; with max_new_tokens = {max_new_tokens} it could exceed the "
                f"{limit} positions of the model.",
                f"Set max_new_tokens to at most {limit - len(prompt)}, or shorten the prompt."
                if len(prompt) < limit
                else f"Shorten the prompt to fewer than {limit} tokens, or remove it.",
            )


def make_engine(
    spec: str,
    *,
    model: Any,
    eos_ids: Iterable[int],
    pad_id: int,
    named: Mapping[str, Callable[..., Engine]],
    tokenizer: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Engine:
    """The engine that `spec` names. named: the factories that plugins contribute (hook `engines`).

    Raises ZooError if the text cannot be read, the name or an option is unknown, or the engine refuses an option.
    """
    name, arguments = parse(spec, "engine", "vllm(url=http://127.0.0.1:8000)")
    if name not in named:
        raise ZooError(
            f"No engine is called '{name}'.{nearest(name, named)}", f"Installed: {', '.join(sorted(named))}."
        )
    options = bind(named[name], arguments, f"engine '{name}'")
    engine = named[name](EngineSetup(model, frozenset(int(i) for i in eos_ids), pad_id, tokenizer, progress), **options)
    for what in ("generate", "remote", *(["update"] if getattr(engine, "remote", False) else [])):
        if not hasattr(engine, what):
            raise PluginError(
                f"The engine '{name}' ({type(engine).__name__}) has no '{what}'.",
                "docs/contract.md says what an engine is.",
            )
    return engine
