"""Equal compute: how many steps of each algorithm train on and write the same number of tokens.

A token is trained if the policy scores it with gradients, in a prompt or in an answer. A prompt counts once for each
of its answers, and a text each time it is read. A token that a policy writes to learn from counts once more. Passes
without gradients do not count (a reference that is not cached, estimates over the step): the CPU time in the table
shows them.

Counting needs no network: the algorithm's own collate, measure and loss run over the planned steps with stand-ins that
only count the tokens that they are asked to score.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zoo.contract import registry
from zoo.data.encoding.template import ChatTemplate
from zoo.models.roles import Models
from zoo.options.config import Resolved, TrainConfig
from zoo.training.datasets import load_data, make_collate, make_loader, make_prompts
from zoo.training.online.assembly import steps_of
from zoo.training.step.hooks import prepared_records
from zoo.values.answers import answers_in
from zoo.values.records import Records
from zoo.values.types import Answers, Batch, TokenLogps

DEFINITION = (
    "Equal compute means equal tokens: those of prompts and answers that the policy scores with gradients, a prompt "
    "once for each of its answers, a text each time it is read; and those that it writes to learn from."
)


class CountingScorer:
    """A stand-in for a model: every log-probability is −1, and tokens scored with gradients are counted."""

    def __init__(self) -> None:
        self.tokens = 0

    def logps(self, *answers: Answers, **options: Any) -> Any:
        if torch.is_grad_enabled():
            self.tokens += sum(len(answer) for part in answers for answer in part)
        scored = [self._made(part, bool(options.get("entropy"))) for part in answers]
        return scored[0] if len(scored) == 1 else tuple(scored)

    def _made(self, answers: Answers, entropy: bool) -> TokenLogps:
        mask = answers.mask
        values = -mask.float().requires_grad_()
        return TokenLogps(values, mask, entropy=-values if entropy else None, likeliest=torch.zeros_like(mask))


@dataclass
class Steps:
    """The steps that an entrant would make without a budget, and their tokens."""

    tokens: list[int]
    """Cumulative tokens after each step, trained and written."""
    records: int
    batch_size: float
    """Records in a step."""
    note: str = ""

    def nearest(self, budget: int) -> int:
        """The number of steps (at least 1) that comes closest to a number of tokens."""
        return 1 + min(range(len(self.tokens)), key=lambda step: abs(self.tokens[step] - budget))


Written = Callable[[TrainConfig, Records], float]
"""A function of a run's options and encoded prompts that gives the mean length of the start's answers."""


class Planner:
    """Counts the steps of one entrant; its data is read once for all seeds.

    written: gives the mean length of answers, for an algorithm that writes its own; without it, all have the greatest
    length.
    """

    def __init__(self, resolved: Resolved, cls: Any, template: ChatTemplate, written: Written | None = None):
        self.algorithm, self.written = cls(), written
        self.plugins = registry.manager(self.algorithm)
        self.config = resolved.algorithm
        self.data = load_data(resolved.core, cls.kinds(), template, self.plugins, lambda text: None)
        self.collate = make_collate(
            self.plugins.hook, template.tokenizer, self.config, resolved.core.max_length
        )  # fmt: skip
        self.policy = CountingScorer()
        roles = {role: CountingScorer() for role in self.algorithm.roles(self.config)}
        self.models = Models(**{**roles, "policy": self.policy})
        self.note = ""
        self._length: float | None = None
        self.records = self._prepared()

    def _prepared(self) -> Records:
        """The records after the algorithm's prepare hook, if that needs no network."""
        records = self.data.train.records
        if not self.plugins.hook.prepare.get_hookimpls():
            return records
        prepared = self._quietly(
            lambda: self.plugins.hook.prepare(records=records, models=self.models, config=self.config)
        )
        return records if prepared is None else prepared_records(prepared, self.algorithm)

    def _quietly(self, function: Callable[[], Any]) -> Any:
        """The function's result; None, and a note, if it needs more than stand-ins. The run itself warns."""
        # Any exception of a plugin is ignored here: if it is a bug, the run itself reports it.
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            return function()
        self.note = (
            "all tokens of its batches are counted, because its trained tokens cannot be counted without a model"
        )
        return None

    def steps(self, resolved: Resolved) -> Steps:
        """The steps of one seed, in the order in which it reads the data."""
        core = resolved.core
        if self.algorithm.online():
            return self._steps_of_answers(core)
        loader = make_loader(core, self.data, self.records, self.collate)
        total, tokens = 0, []
        for step in range(len(loader)):
            total += self._trained(loader.batch(step), step)
            tokens.append(total)
        return Steps(tokens, len(self.records), core.batch_size, self.note)

    def _steps_of_answers(self, core: TrainConfig) -> Steps:
        """Steps on answers that are not written yet, counted as long as the start's answers."""
        records = self.records
        count = steps_of(make_prompts(core, self.data, records), core)
        prompt_length = sum(_prompt_tokens(record) for record in records) / len(records)
        length = self._answer_length(core)
        answers = min(core.batch_size, len(records) * core.answers_per_prompt)
        written = answers / core.rollout_epochs
        each = answers * (prompt_length + length) + written * length
        tokens = [round(step * each) for step in range(1, count + 1)]
        return Steps(tokens, len(records), written / core.answers_per_prompt, self.note)

    def _answer_length(self, core: TrainConfig) -> float:
        if self._length is None:
            self._length = self.written(core, self.records) if self.written else float(core.max_new_tokens)
            self.note = (
                f"its tokens are an estimate, with {self._length:.1f} tokens per answer; the table has those that it "
                "was trained on and wrote"
            )
        return self._length

    def steps_until(self, resolved: Resolved, budget: int) -> tuple[Steps, float]:
        """Steps that reach a budget, with more passes over the data if necessary; and the number of passes."""
        core = resolved.core
        steps = self.steps(resolved)
        # If the last step falls short by less than half a step, no other number of steps is closer.
        while steps.tokens[-1] + steps.tokens[-1] / len(steps.tokens) / 2 < budget:
            core.max_steps = None
            core.epochs = float(math.ceil(core.epochs * max(1.1, budget / steps.tokens[-1])))
            steps = self.steps(resolved)
        return steps, core.epochs

    def _trained(self, batch: Batch, step: int) -> int:
        before = self.policy.tokens
        counted = None if self.note else self._quietly(lambda: self._run(batch, step))
        if counted is None:
            return sum(len(answer) for answer in answers_in(batch))
        return self.policy.tokens - before

    def _run(self, batch: Batch, step: int) -> bool:
        hook = self.plugins.hook
        if hook.measure.get_hookimpls():
            with torch.no_grad():
                measured = hook.measure(batch=batch, models=self.models, config=self.config)
            batch.measured = {name: torch.tensor(1.0) for name in measured}
        hook.loss(batch=batch, models=self.models, config=self.config, step=step)
        return True


def _prompt_tokens(record: Mapping[str, Any]) -> int:
    return len(record["prompt"] if "prompt" in record else record["completion"].prompt)
