"""Writes a policy's answers: with an engine, the chat template, the run's sampling settings and its randomness.

Every call has a generator of its own, seeded by the run's seed, the iteration and the number of the call in it. So a
resume needs no stored state, and an interrupted rollout is repeated token for token. Several processes write a share of
the answers each and exchange them, so that every process has all answers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.data.encoding.template import ChatTemplate, extras_of
from zoo.errors import ZooError
from zoo.libraries.sharding import is_sharding
from zoo.models.reference import Reference
from zoo.models.roles import Policy
from zoo.models.scorer import Scorer
from zoo.processes import agreed, gathered, is_first, my_place
from zoo.rollout.correction import importance_weights
from zoo.rollout.engine import Engine, Sampling
from zoo.rollout.episodes import Player
from zoo.rollout.kept import AnswerCache, call_key
from zoo.rollout.sampling import seeds
from zoo.values.records import rows_of
from zoo.values.types import Answer, Answers

SEED_STEPS = (1_000_003, 10_007)
"""The distances between the seeds of two runs and of two iterations."""
PREPARING = -2
"""The iteration number of answers written before the first step."""


class Writer:
    """Writes answers for a policy.

    policy: the model that writes; make_engine: makes the engine when it is first needed; sampling and count: the
    sampling settings and the number of answers per prompt, unless a call sets others; context: opened around each
    call, for autocast; device: of the answers. rescores: answers of rollouts get the trainer's log-probabilities,
    because later steps of a rollout are compared with them, and a clip of 3e-4 is narrower than the rounding
    differences of an engine. make_local: makes an engine in this process for another model, a frozen one. make_player:
    makes what plays the episodes of an environment when it is first needed; without it answers are single turns.
    """

    def __init__(
        self,
        policy: Policy,
        make_engine: Callable[[], Engine],
        template: ChatTemplate,
        sampling: Sampling,
        count: int,
        seed: int,
        context: Callable[[], AbstractContextManager],
        device: torch.device,
        rescores: bool = False,
        make_local: Callable[[Any], Engine] | None = None,
        make_player: Callable[[], Player] | None = None,
    ):
        self.policy, self._make_engine, self._make_local = policy, make_engine, make_local
        self._make_player = make_player
        self.template, self.sampling, self.count = template, sampling, count
        self.seed, self.context, self.device, self.rescores = seed, context, device, rescores
        self.iteration, self.calls = 0, 0
        self.seconds, self.tokens = 0.0, 0
        """Seconds that this process spent writing, and tokens that all processes wrote."""
        self.gaps: list[float] = []
        """|log-probability by the engine − by the trainer|, for each scored token of this iteration."""
        self.others_wrote = False
        """Whether a frozen role has written answers in this iteration."""
        self._prompts: Sequence[Any] = ()
        self._open_cache: Callable[[], AnswerCache | None] = lambda: None
        self._progress: Callable[[int, int], None] | None = None

    def show(self, done: int, total: int) -> None:
        """Called by the engine with the numbers of answers done and of all answers."""
        if self._progress is not None:
            self._progress(done, total)

    @cached_property
    def engine(self) -> Any:
        return self._make_engine()

    @cached_property
    def player(self) -> Player | None:
        """What plays the episodes, of runs in an environment."""
        return self._make_player() if self._make_player is not None else None

    def close(self) -> None:
        """End the processes of an environment. They end with this process in any case."""
        if "player" in vars(self) and self.player is not None:
            self.player.close()

    def begin(self, iteration: int, prompts: Sequence[Any] = ()) -> None:
        """Start an iteration: the following calls belong to it, and may take more of these encoded prompts."""
        self.iteration, self.calls, self.gaps, self._prompts = iteration, 0, [], prompts
        self.others_wrote = False
        self._hand_over()

    @contextmanager
    def preparing(
        self, open_cache: Callable[[], AnswerCache | None], progress: Callable[[int, int], None] | None
    ) -> Iterator[None]:
        """A context for calls before the first step, whose answers are cached; open_cache: called at most once."""
        self.iteration, self.calls = PREPARING, 0
        self._open_cache, self._progress = cache(open_cache), progress
        try:
            yield
        finally:
            self._open_cache, self._progress = lambda: None, None

    def _hand_over(self) -> None:
        """Give the weights to a remote engine."""
        if self.engine.remote:
            if is_sharding():
                raise ZooError(
                    "An engine elsewhere cannot be given the weights of a model that is sharded.",
                    "Leave out --engine, or --strategy fsdp and --tensor-parallel.",
                )
            if is_first():
                self.engine.update(self.policy.model)
            # The other processes wait until the weights are there.
            gathered(None)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """See `zoo.models.roles.Policy.generate`. Raises ZooError for impossible sampling options."""
        return self._write(prompts, n, self.policy, self.engine, **sampling)

    def generate_by(self, frozen: Reference, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """The same by a frozen role, in this process, with the random numbers of the next call."""
        assert self._make_local is not None
        self.others_wrote = True
        with frozen.borrowed() as model:
            return self._write(prompts, n, frozen, self._make_local(model), **sampling)

    def _write(
        self, prompts: Sequence[Any], n: int | None, scorer: Scorer, engine: Engine, **sampling: Any
    ) -> Answers:  # fmt: skip
        """The answers of an engine that has the weights of `scorer`."""
        n = n or self.count
        how = dataclasses.replace(self.sampling, **sampling) if sampling else self.sampling
        ids, facts = [self._ids(prompt) for prompt in prompts], [_facts(prompt) for prompt in prompts]
        if self.iteration == PREPARING and self.calls == 0:
            self._hand_over()
        generator = torch.Generator().manual_seed(self._next_seed())
        rank, processes = my_place()
        # Each process takes consecutive whole prompts; the seeds of earlier prompts are drawn and discarded.
        start, stop = (len(ids) * (rank + k) // processes for k in (0, 1))
        torch.randint(2**63 - 1, (start * n,), generator=generator)
        clock = time.perf_counter()
        with self.context():
            mine = self._drawn(prompts[start:stop], ids[start:stop], n, how, generator, engine) if stop > start else []
        self.seconds += time.perf_counter() - clock
        written = [answer for share in gathered(mine) for answer in share]
        self.tokens += sum(len(answer.completion) for answer in written)
        answers = Answers([dataclasses.replace(a, **facts[i // n]) for i, a in enumerate(written)]).to(self.device)
        if not engine.remote and not (self.rescores and self.iteration >= 0):
            return answers
        return self._rescored(scorer, engine, answers, how.temperature or 1.0)

    def _drawn(
        self, prompts: Sequence[Any], ids: list[Tensor], n: int, how: Sampling, generator: torch.Generator,
        engine: Engine,
    ) -> list[Answer]:  # fmt: skip
        """Answers in the environment if there is one; else from the cache if it has this call, or from the engine."""
        if self._make_player is not None and engine is self.engine:
            return self._played(prompts, n, how, generator)
        kept = self._open_cache() if engine is self.engine else None
        if kept is None:
            return engine.generate(ids, n, how, generator)
        call = call_key(ids, n, how, generator)
        answers = agreed(kept.get(call, ids, n))
        if answers is None:
            answers = engine.generate(ids, n, how, generator)
            kept.put(call, answers)
        return answers

    def _played(self, prompts: Sequence[Any], n: int, how: Sampling, generator: torch.Generator) -> list[Answer]:
        assert self.player is not None
        drawn = seeds(len(prompts) * n, generator)
        records = [
            prompt.get("record", prompt) if isinstance(prompt, dict) else {"prompt": prompt} for prompt in prompts
        ]
        return self.player.play(self.engine, records, n, how, drawn)

    def _rescored(self, scorer: Scorer, engine: Engine, answers: Answers, temperature: float) -> Answers:
        """Answers with the trainer's own log-probabilities; those of a remote engine also get importance weights."""
        with self.context():
            own = scorer.logps(answers, temperature=temperature)
        weights = None
        if engine.remote:
            bounds: dict[str, Any] = {"cap": getattr(engine, "bound", 2.0)}
            bounds["beyond"] = getattr(engine, "beyond", "truncate")
            weights = importance_weights(own.per_token, answers.behaviour, own.mask, **bounds)
        self.gaps += (own.per_token - answers.behaviour).abs()[own.mask].tolist()
        lengths = [len(answer.completion) for answer in answers]
        return Answers([
            dataclasses.replace(
                answer, behaviour=own.per_token[i, :n], correction=None if weights is None else weights[i, :n]
            )
            for i, (answer, n) in enumerate(zip(answers, lengths, strict=True))
        ])  # fmt: skip

    def more_prompts(self, count: int, besides: Sequence[Any]) -> list[Any]:
        """See `zoo.models.roles.Policy.more_prompts`."""
        taken = [row for prompt in besides if (row := _facts(prompt).get("row")) is not None]
        others = numpy.flatnonzero(~numpy.isin(rows_of(self._prompts), taken))
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(self._next_seed()))
        return [self._prompts[int(others[i])] for i in order[:count].tolist()]

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """The texts of answers, without special tokens and white space at the ends."""
        decode = self.template.tokenizer.decode
        return [decode(answer.completion, skip_special_tokens=True).strip() for answer in answers]

    def answer(self, prompt: Any, text: str, ended: bool = True) -> Answer:
        """See `zoo.models.roles.Policy.answer`. Raises ZooError if the template refuses it."""
        if prompt is None:
            return self.template.tokenize([self.template.render_text(text)])[0][0]
        record = prompt.get("record", prompt) if isinstance(prompt, dict) else {"prompt": prompt}
        answer = self.template.answer(record["prompt"], text, **extras_of(record))
        if not ended:
            end = int(answer.mask.nonzero()[-1])
            answer = dataclasses.replace(
                answer, completion=answer.completion[:end], mask=answer.mask[:end], ended=False, cut=True
            )
        return dataclasses.replace(answer, **_facts(prompt))

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """See `zoo.models.roles.Policy.line_ends`. Blank lines belong to the line before them."""
        return [turn_ends(one) if one.rewarded_by_turn else line_ends(one, self.template.tokenizer) for one in answers]

    @property
    def first_seed(self) -> int:
        """The seed of this iteration; its calls use the seeds that follow."""
        return (self.seed * SEED_STEPS[0] + self.iteration) * SEED_STEPS[1]

    def _next_seed(self) -> int:
        self.calls += 1
        return self.first_seed + self.calls

    def _ids(self, prompt: Any) -> Tensor:
        if isinstance(prompt, dict) and isinstance(prompt.get("prompt"), Tensor):
            return prompt["prompt"].cpu()
        if isinstance(prompt, dict):
            # An encoded record of another kind: use the prompt of its original record.
            record = prompt.get("record", prompt)
            return torch.tensor(self.template.prompt_ids(record["prompt"], **extras_of(record)))
        if isinstance(prompt, str | list):
            return torch.tensor(self.template.prompt_ids(prompt))
        raise ZooError(f"generate takes encoded records, message lists or strings, not {type(prompt).__name__}.")


def turn_ends(answer: Answer) -> list[int]:
    """Where the turns of an episode end that have a reward, and the last one."""
    assert answer.episode is not None
    return sorted({place for place, _ in answer.episode.rewards} | {len(answer.completion) - 1})


def line_ends(answer: Answer, tokenizer: Any) -> list[int]:
    """Where the lines of an answer end that say something."""
    ends: list[int] = []
    line = ""
    for position, token in enumerate(answer.completion.tolist()):
        line += tokenizer.decode([token], skip_special_tokens=True)
        if "\n" in line and line.strip():
            ends.append(position)
            line = ""
        elif "\n" in line:
            ends[-1:] = [position] if ends else []
            line = ""
    # The last line is what follows the last line break, even if it is only the end-of-turn token.
    last = len(answer.completion) - 1
    return [*ends, last] if line.strip() or not ends else [*ends[:-1], last]


def _facts(prompt: Any) -> dict[str, Any]:
    """What an encoded record gives to its answers."""
    return {name: prompt.get(name) for name in ("row", "domain")} if isinstance(prompt, dict) else {}
