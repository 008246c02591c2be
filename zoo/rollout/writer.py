"""What a policy writes its answers with: an engine, the chat template, the run's way of sampling and its randomness.

Every call draws from a generator of its own, seeded by the run's seed, the iteration and the number of the call in it:
nothing has to be kept for a resume, and a rollout that was cut off is made again, token for token. Several processes
write each a share of the answers and hand them round, so that all have all of them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.data.encoding.template import ChatTemplate
from zoo.errors import ZooError
from zoo.models.roles import Policy
from zoo.processes import gathered, my_place
from zoo.rollout.correction import importance_weights
from zoo.rollout.engine import Engine, Sampling
from zoo.rollout.kept import AnswerCache, call_key
from zoo.values.types import Answer, Answers

SEED_STEPS = (1_000_003, 10_007)
"""How far the seeds of two runs, and of two iterations, lie apart."""
PREPARING = -2
"""The iteration of what is written before the first step."""


class Writer:
    """Writes answers for a policy.

    policy: whose answers they are; make_engine: makes what draws the tokens, when it is first needed; sampling and
    count: how, and how many to a prompt, unless a call says otherwise; context: opened around each call, for autocast;
    device: where answers are wanted. rescores: answers of rollouts get the trainer's log-probs: later steps of a
    rollout compare theirs with these, and a clip of 3e-4 is narrower than the rounding error of an engine.
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
    ):
        self.policy, self._make_engine = policy, make_engine
        self.template, self.sampling, self.count = template, sampling, count
        self.seed, self.context, self.device, self.rescores = seed, context, device, rescores
        self.iteration, self.calls = 0, 0
        self.seconds, self.tokens = 0.0, 0
        """Spent writing by this process since it began, and how many tokens all of them wrote."""
        self.gaps: list[float] = []
        """How far the engine's log-probs were from the trainer's, for each token of this iteration that was scored."""
        self._prompts: Sequence[Any] = ()
        self._open_cache: Callable[[], AnswerCache | None] = lambda: None
        self._progress: Callable[[int, int], None] | None = None

    def show(self, done: int, total: int) -> None:
        """Called by the engine: answers done and in all."""
        if self._progress is not None:
            self._progress(done, total)

    @cached_property
    def engine(self) -> Any:
        return self._make_engine()

    def begin(self, iteration: int, prompts: Sequence[Any] = ()) -> None:
        """The calls that follow are those of this iteration, which may draw more of these encoded prompts."""
        self.iteration, self.calls, self.gaps, self._prompts = iteration, 0, [], prompts
        self._hand_over()

    @contextmanager
    def preparing(
        self, open_cache: Callable[[], AnswerCache | None], progress: Callable[[int, int], None] | None
    ) -> Iterator[None]:
        """The calls in here are made before the first step, and kept; open_cache: called once, if there are any."""
        self.iteration, self.calls = PREPARING, 0
        self._open_cache, self._progress = cache(open_cache), progress
        try:
            yield
        finally:
            self._open_cache, self._progress = lambda: None, None

    def _hand_over(self) -> None:
        """The weights to an engine that has others."""
        if self.engine.remote:
            if my_place()[0] == 0:
                self.engine.update(self.policy.model)
            # The others wait until the weights are there.
            gathered(None)

    def generate(self, prompts: Sequence[Any], n: int | None = None, **sampling: Any) -> Answers:
        """See `zoo.models.roles.Policy.generate`. Raises ZooError for a way to sample that cannot be."""
        n = n or self.count
        how = dataclasses.replace(self.sampling, **sampling) if sampling else self.sampling
        ids, rows = [self._ids(prompt) for prompt in prompts], [_row(prompt) for prompt in prompts]
        if self.iteration == PREPARING and self.calls == 0:
            self._hand_over()
        generator = torch.Generator().manual_seed(self._next_seed())
        rank, processes = my_place()
        # Whole prompts in a row for each process; the seeds of those before are drawn and thrown away.
        start, stop = (len(ids) * (rank + k) // processes for k in (0, 1))
        torch.randint(2**63 - 1, (start * n,), generator=generator)
        clock = time.perf_counter()
        with self.context():
            mine = self._drawn(ids[start:stop], n, how, generator) if stop > start else []
        self.seconds += time.perf_counter() - clock
        every = [answer for share in gathered(mine) for answer in share]
        self.tokens += sum(len(answer.completion) for answer in every)
        answers = Answers([dataclasses.replace(a, row=rows[i // n]) for i, a in enumerate(every)]).to(self.device)
        if not self.engine.remote and not (self.rescores and self.iteration >= 0):
            return answers
        return self._rescored(answers, how.temperature or 1.0)

    def _drawn(self, ids: list[Tensor], n: int, how: Sampling, generator: torch.Generator) -> list[Answer]:
        """From the engine, unless the same call is kept."""
        kept = self._open_cache()
        if kept is None:
            return self.engine.generate(ids, n, how, generator)
        call = call_key(ids, n, how, generator)
        found = kept.get(call, ids, n)
        if found is None:
            found = self.engine.generate(ids, n, how, generator)
            kept.put(call, found)
        return found

    def _rescored(self, answers: Answers, temperature: float) -> Answers:
        """Answers with the trainer's own log-probs; those of another engine with weights for what its differ by."""
        with self.context():
            own = self.policy.logps(answers, temperature=temperature)
        weights = None
        if self.engine.remote:
            bounds: dict[str, Any] = {"cap": getattr(self.engine, "bound", 2.0)}
            bounds["beyond"] = getattr(self.engine, "beyond", "truncate")
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
        taken = {_row(prompt) for prompt in besides}
        others = [prompt for prompt in self._prompts if _row(prompt) not in taken]
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(self._next_seed()))
        return [others[i] for i in order[:count].tolist()]

    def texts(self, answers: Sequence[Answer]) -> list[str]:
        """What answers say, without special tokens and white space at the ends."""
        decode = self.template.tokenizer.decode
        return [decode(answer.completion, skip_special_tokens=True).strip() for answer in answers]

    def answer(self, prompt: Any, text: str, ended: bool = True) -> Answer:
        """See `zoo.models.roles.Policy.answer`. Raises ZooError where the template refuses it."""
        if prompt is None:
            return self.template.tokenize([self.template.render_text(text)])[0][0]
        record = prompt.get("record", prompt) if isinstance(prompt, dict) else {"prompt": prompt}
        made = self.template.answer(record["prompt"], text, record.get("tools"))
        if not ended:
            end = int(made.mask.nonzero()[-1])
            made = dataclasses.replace(
                made, completion=made.completion[:end], mask=made.mask[:end], ended=False, cut=True
            )
        return dataclasses.replace(made, row=_row(prompt))

    def line_ends(self, answers: Sequence[Answer]) -> list[list[int]]:
        """See `zoo.models.roles.Policy.line_ends`. Blank lines belong to the line before them."""
        found = []
        for answer in answers:
            ends: list[int] = []
            line = ""
            for position, token in enumerate(answer.completion.tolist()):
                line += self.template.tokenizer.decode([token], skip_special_tokens=True)
                if "\n" in line and line.strip():
                    ends.append(position)
                    line = ""
                elif "\n" in line:
                    ends[-1:] = [position] if ends else []
                    line = ""
            # What follows the last line break, were it the end-of-turn token alone.
            last = len(answer.completion) - 1
            found.append([*ends, last] if line.strip() or not ends else [*ends[:-1], last])
        return found

    @property
    def first_seed(self) -> int:
        """The seed of this iteration, from which on its calls have theirs."""
        return (self.seed * SEED_STEPS[0] + self.iteration) * SEED_STEPS[1]

    def _next_seed(self) -> int:
        self.calls += 1
        return self.first_seed + self.calls

    def _ids(self, prompt: Any) -> Tensor:
        if isinstance(prompt, dict) and isinstance(prompt.get("prompt"), Tensor):
            return prompt["prompt"].cpu()
        if isinstance(prompt, dict):
            # An encoded record of another kind: its prompt as the data has it.
            record = prompt.get("record", prompt)
            return torch.tensor(self.template.prompt_ids(record["prompt"], record.get("tools")))
        if isinstance(prompt, str | list):
            return torch.tensor(self.template.prompt_ids(prompt))
        raise ZooError(f"generate takes encoded records, message lists or strings, not {type(prompt).__name__}.")


def _row(prompt: Any) -> int | None:
    return prompt.get("row") if isinstance(prompt, dict) else None
