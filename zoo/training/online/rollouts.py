"""Rollouts: the policy writes answers, the reward scores them, the algorithm turns them into experience.

Everything in here runs without gradient, in the arithmetic of the steps, with the policy in evaluation mode, and draws
random numbers that depend on the run's seed and the iteration alone.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from zoo.contract.hook_arguments import named_hook
from zoo.errors import PluginError
from zoo.evals.kept_scores import append_samples
from zoo.libraries.architecture import evaluating
from zoo.models.precision import autocast
from zoo.models.reference import Reference
from zoo.models.roles import Models
from zoo.numbers import amount
from zoo.processes import begin_exchange, is_first
from zoo.randomness import seeded
from zoo.rewards.reward import Reward
from zoo.rollout.writer import Writer
from zoo.runs import Run
from zoo.training.online.scores import SHOWN, Scores, Seen, Unrewarded, mean, shared_scores
from zoo.training.step.parts import Parts
from zoo.training.step.timing import GENERATION, REWARD, ROLLOUT, Timing
from zoo.values.answers import with_facts
from zoo.values.records import rows_of
from zoo.values.types import Answers, Batch

RAISED = "environment.log"
"""The file of a run with the tracebacks of its environment."""
COMPARED = 8
"""Answers of a rollout whose log-probs are computed again, to compare them with the engine's."""


class RecordsByRow(dict[int, Any]):
    """The canonical records of a rollout by their row numbers; those of other prompts are looked for."""

    def __init__(self, prompts: Sequence[dict[str, Any]]):
        super().__init__()
        self._prompts = prompts

    def begin(self, prompts: Sequence[dict[str, Any]]) -> None:
        """A rollout begins with these prompts."""
        self.clear()
        self.update((prompt["row"], prompt["record"]) for prompt in prompts)

    def __missing__(self, row: int) -> Any:
        places = numpy.flatnonzero(rows_of(self._prompts) == row)
        if not len(places):
            raise KeyError(row)
        # Rows of an answer are those of the last prompt with that number.
        self[row] = self._prompts[int(places[-1])]["record"]
        return self[row]


class Rollouts:
    """Makes the rollouts of a run. Called with the records of an iteration, its number and the steps done.

    rewards: the one trained on and maybe the gold one, as "reward" and "gold"; prompts: all encoded prompts for
    training; micro_tokens: gives the tokens of one forward pass, as the steps have them; start: what validation
    measures the distance from; reference_every: optimizer steps after which the reference becomes the policy, 0 for
    never; run: where samples go, None for nowhere; notify: called with (event, **facts) for the listeners; mixed: the
    parts of a mixture, in training and held out.
    """

    def __init__(
        self,
        hook: Any,
        algorithm: Any,
        config: Any,
        models: Models,
        writer: Writer,
        rewards: Mapping[str, Reward],
        prompts: Sequence[dict[str, Any]],
        precision: str,
        say: Callable[[str], None],
        micro_tokens: Callable[[], int],
        *,
        start: Reference | None = None,
        reference_every: int = 0,
        timing: Timing | None = None,
        run: Run | None = None,
        notify: Callable[..., None] = lambda event, **facts: None,
        mixed: tuple[Parts | None, Parts | None] = (None, None),
    ):
        self.hook, self.algorithm, self.config, self.models, self.writer = hook, algorithm, config, models, writer
        self.rewards, self.prompts, self.precision, self.say = rewards, prompts, precision, say
        self.records = RecordsByRow(prompts)
        self.micro_tokens, self.start, self.reference_every = micro_tokens, start, reference_every
        self.timing, self.run, self.notify = timing or Timing(), run, notify
        self.mixed, self.held_out_mixed = mixed
        self._renewed = 0
        self.metrics: dict[str, float] = {}
        """Of the last rollout, until a step logs them."""
        self.unrewarded = Unrewarded()
        self._seen = Seen()

    def __call__(self, records: list[dict[str, Any]], iteration: int, step: int) -> Batch:
        self._renew_reference(step)
        self._seen = Seen()
        # Those of the data are known by their rows, as those that are written are.
        records = [with_facts(record, row=record["row"]) for record in records]
        self.records.begin(records)
        judged = self._judged()
        with self._timed(), self.rolling(iteration):
            batch = self.hook.rollout(prompts=records, models=self.models, config=self.config, score=self._score)
            self._check(batch)
            self._show(batch)
            self.metrics = {**self._seen.metrics(), **self._of_parts(), **self._gap()}
        begin_exchange()
        self._watch(step, judged)
        self._keep_tracebacks(step)
        return batch

    def state(self) -> dict[str, Any]:
        """The state that a resume restores, in types that load without unpickling code."""
        return {"unrewarded": [self.unrewarded.count, self.unrewarded.in_a_row], "renewed": self._renewed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.unrewarded.count, self.unrewarded.in_a_row = state["unrewarded"]
        self._renewed = state["renewed"]

    def _renew_reference(self, step: int) -> None:
        """Every `reference_every` steps the policy, as it is before this rollout, becomes the reference."""
        if self.reference_every and (due := step // self.reference_every) > self._renewed:
            self._renewed = due
            self.models.built("reference").follow_policy()

    def take_metrics(self) -> dict[str, float]:
        """The metrics of a rollout, which the first step after it logs."""
        metrics, self.metrics = self.metrics, {}
        return metrics

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Measure the time of a rollout, and the writer's and the judge's parts of it."""
        writer, judge = self.writer, self.models.built("judge") if "judge" in self.models else None
        seconds, tokens, judged = writer.seconds, writer.tokens, judge.seconds if judge is not None else 0.0
        with self.timing.measured(ROLLOUT):
            yield
        self.timing.add(GENERATION, writer.seconds - seconds, writer.tokens - tokens)
        if judge is not None:
            self.timing.add(REWARD, judge.seconds - judged)

    @contextlib.contextmanager
    def rolling(self, iteration: int) -> Iterator[None]:
        """Roles and random numbers as a rollout uses them."""
        self.writer.begin(iteration, self.prompts)
        scoring = self.models.scoring()
        if self.start is not None and "reference" not in self.models:
            scoring.append(self.start)
        policy = self.models.built("policy").model
        device = next(policy.parameters()).device
        try:
            for role in scoring:
                role.micro_tokens = self.micro_tokens()
            # A plugin's own random numbers are the same when a rollout is made again.
            with seeded(self.writer.first_seed), evaluating(policy), torch.no_grad(), autocast(self.precision, device):
                yield
        finally:
            for role in scoring:
                role.micro_tokens = None

    def _check(self, batch: Any) -> None:
        name = named_hook(self.algorithm, "rollout")
        if not isinstance(batch, Batch):
            raise PluginError(f"{name} returned {type(batch).__name__}, not a Batch.", "Return Batch(answers=…, …).")
        if not any(isinstance(field, Answers) for field in batch.fields.values()):
            raise PluginError(f"{name} returned a Batch without answers.", "Put what was generated into it.")

    # -- scores --------------------------------------------------------------------------------------------------

    def _score(self, answers: Answers, unfinished: bool = False, instead_of: Answers | None = None) -> Tensor:
        """What a rollout gets as `score`. unfinished: these are beginnings of answers, which no metric counts.

        instead_of: answers scored before, which are not trained on; metrics no longer count them.
        """
        self._seen.forget(instead_of or ())
        if "reward" not in self.rewards and "judge" in self.models:
            # It learns from its judge; a reward would only be logged.
            self._seen.rewarded = False
            self._seen.add(answers, self.writer.texts(answers), [math.nan] * len(answers), {})
            return torch.full((len(answers),), math.nan, device=answers[0].completion.device)
        with self.timing.measured(REWARD):
            scores = self.scored("reward", answers, self.records)
        self._seen.fail(len(answers), scores.failures)
        if not unfinished:
            self._seen.add(answers, self.writer.texts(answers), scores.values, scores.parts)
        return torch.tensor(scores.values, dtype=torch.float32, device=answers[0].completion.device)

    def _show(self, batch: Batch) -> None:
        """Count the answers of a rollout that asked for no reward; if one was named, it is shown all the same."""
        fields = [field for field in batch.fields.values() if isinstance(field, Answers)]
        answers = Answers([answer for field in fields for answer in field if answer.behaviour is not None])
        if self._seen.answers or self._seen.asked or not answers:
            return
        scores = Scores([math.nan] * len(answers), {}, Counter())
        if "reward" in self.rewards:
            with self.timing.measured(REWARD):
                scores = self.scored("reward", answers, self.records)
        self._seen.rewarded = "reward" in self.rewards
        self._seen.add(answers, self.writer.texts(answers), scores.values, scores.parts)

    def scored(self, which: str, answers: Answers, records: Mapping[int, Any]) -> Scores:
        return shared_scores(self.rewards[which], answers, records, self.writer)

    # -- metrics -------------------------------------------------------------------------------------------------------

    def _of_parts(self) -> dict[str, float]:
        """The mean reward of each part of a mixture."""
        if self.mixed is None or not self._seen.rewarded:
            return {}
        rows = [answer.row for answer in self._seen.answers]
        return self.mixed.means({"rollout/reward": self._seen.values}, rows)

    def _gap(self) -> dict[str, float]:
        """Mean |Δ| per token between the log-probs of the engine and those that the trainer computes.

        Padding, row layout and cached keys in lower precision cause rounding errors; a larger difference is a mistake.
        What a frozen role has written is not the policy's, and is not compared.
        """
        if self.writer.others_wrote:
            return {}
        if self.writer.gaps:
            return {"rollout/engine_gap": mean(self.writer.gaps)}
        some = Answers([a for a in self._seen.answers if a.behaviour is not None][:COMPARED])
        if not some or not hasattr(self.models.built("policy"), "logps"):
            return {}
        computed = self.models.built("policy").logps(some)
        gap = (computed.per_token - some.behaviour).abs()[computed.mask]
        return {"rollout/engine_gap": float(gap.mean())}

    def _judged(self) -> tuple[int, Counter[str]]:
        """The number of judgements so far, and of the missing ones by reason."""
        if "judge" not in self.models:
            return 0, Counter()
        tally = self.models.built("judge").statistics
        return tally.pairs + tally.grades, Counter(tally.unusable)

    def _watch(self, step: int, judged_before: tuple[int, Counter[str]]) -> None:
        """Say what is missing, keep samples, notify listeners; stop the run after rollouts without any reward."""
        seen, judged = self._seen, "judge" in self.models
        said, unsaid = self._judged()
        said, unsaid = said - judged_before[0], unsaid - judged_before[1]
        if is_first() and seen.answers:
            for reason, count in seen.failures.items():
                self.say(f"Step {step + 1}: {count} of {amount(seen.asked, 'reward')} are missing: {reason}")
            for reason, count in unsaid.items():
                judgements = amount(said + unsaid.total(), "judgement")
                self.say(f"Step {step + 1}: {count} of {judgements} are missing: {reason}")
            self.keep("rollout", f"step {step}", seen.samples(self.records, SHOWN))
            self.notify("rollout_end", step=step, metrics=self.metrics)
        if not judged and not self._seen.asked:
            return
        # With a judge, the run learns from its judgements; a reward is only logged.
        scored = said if judged else sum(not math.isnan(value) for value in seen.values)
        asked = said + unsaid.total() if judged else len(seen.values)
        self.unrewarded.look(asked, scored, unsaid if judged else seen.failures, step, self.say)

    def _keep_tracebacks(self, step: int) -> None:
        """What environments of this process raised, in the run's folder."""
        player = self.writer.player
        if player is None or not player.tracebacks or self.run is None:
            return
        with (self.run.path / RAISED).open("a", encoding="utf-8") as stream:
            stream.writelines(f"Step {step + 1}\n{trace}\n\n" for trace in player.tracebacks)
        player.tracebacks.clear()

    def keep(self, name: str, when: str, samples: list[dict[str, Any]]) -> None:
        if self.run is not None:
            append_samples(self.run, name, when, samples)
