"""Rollouts: the policy writes, the reward scores, the algorithm makes experience of it; and what is seen on the way.

Everything in here runs without gradient, in the arithmetic of the steps, with the policy in evaluation mode, and draws
random numbers that depend on the run's seed and the iteration alone.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import PluginError, TrainingStopped, ZooError
from zoo.evals import mean_score
from zoo.models.parts import gathered, my_place
from zoo.models.precision import autocast
from zoo.models.roles import Models
from zoo.rewards.alarms import IN_A_ROW, Alarms
from zoo.rewards.reward import Reward, Scored
from zoo.rollout.engine import evaluating
from zoo.rollout.writer import Writer
from zoo.runs import Run
from zoo.training import report
from zoo.training.randomness import seeded
from zoo.training.timing import GENERATION, REWARD, ROLLOUT, Timing
from zoo.types import Answer, Answers, Batch

COMPARED = 8
"""Answers of a rollout whose log-probs are computed once more, to see how far the engine's are from them."""
SHOWN = 3
"""Answers of a rollout, or of a validation, that go into samples.jsonl."""
VALIDATION = -1
"""The iteration whose random numbers every validation uses, so that validations differ by the weights alone."""


class Rollouts:
    """Makes the rollouts of a run, and validates it.

    rewards: the one trained on and maybe the gold one, as "reward" and "gold"; records: encoded prompts for training;
    held_out: encoded prompts for validation. Called with the records of an iteration, its number and the steps done.
    """

    def __init__(
        self,
        hook: Any,
        algorithm: Any,
        config: Any,
        models: Models,
        writer: Writer,
        rewards: Mapping[str, Reward],
        records: Sequence[dict[str, Any]],
        held_out: Sequence[dict[str, Any]],
        precision: str,
        say: Callable[[str], None],
    ):
        self.hook, self.algorithm, self.config, self.models, self.writer = hook, algorithm, config, models, writer
        self.rewards, self.held_out, self.precision, self.say = rewards, held_out, precision, say
        self.records = {record["row"]: record["record"] for record in records}
        self.run: Run | None = None
        self.tell: Callable[..., None] = lambda event, **facts: None
        self.micro_tokens: Callable[[], int] = lambda: 1024
        """Tokens of one forward pass, as the steps have them."""
        self.metrics: dict[str, float] = {}
        """Of the last rollout, until a step has taken them."""
        self.timing = Timing()
        self.alarms = Alarms()
        self.unrewarded, self.unrewarded_in_a_row = 0, 0
        """Rollouts in which no answer got a reward: since the run began, and up to now without one that did."""
        self._seen = Seen()

    def __call__(self, records: list[dict[str, Any]], iteration: int, step: int) -> Batch:
        self._seen = Seen()
        with self._timed(), self._rolling(iteration):
            batch = self.hook.rollout(prompts=records, models=self.models, config=self.config, score=self._score)
            self._check(batch)
            self.metrics = {**self._seen.metrics(), **self._gap()}
        self._watch(step)
        self._count_unrewarded(step)
        return batch

    def state(self) -> dict[str, Any]:
        """What a resume must bring back, in types that load without unpickling code."""
        return {"unrewarded": [self.unrewarded, self.unrewarded_in_a_row]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.unrewarded, self.unrewarded_in_a_row = state["unrewarded"]

    def close(self) -> None:
        """End the processes that rewards run in."""
        for reward in self.rewards.values():
            reward.close()

    def take_metrics(self) -> dict[str, float]:
        """The numbers of a rollout, for the first step after it."""
        found, self.metrics = self.metrics, {}
        return found

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """What a rollout takes, and how much of it the writer and the judge."""
        writer, judge = self.writer, self.models.built("judge") if "judge" in self.models else None
        seconds, tokens, judged = writer.seconds, writer.tokens, judge.seconds if judge is not None else 0.0
        with self.timing.measured(ROLLOUT):
            yield
        self.timing.add(GENERATION, writer.seconds - seconds, writer.tokens - tokens)
        if judge is not None:
            self.timing.add(REWARD, judge.seconds - judged)

    @contextlib.contextmanager
    def _rolling(self, iteration: int) -> Iterator[None]:
        """The roles as a rollout uses them."""
        self.writer.begin(iteration)
        scoring = [self.models.built(role) for role in ("policy", "reference", "critic") if role in self.models]
        policy = self.models.built("policy").model
        device = next(policy.parameters()).device
        try:
            for role in scoring:
                role.micro_tokens = self.micro_tokens()
            # What a plugin draws by itself comes again too when a rollout is made again.
            with seeded(self.writer.first_seed), evaluating(policy), torch.no_grad(), autocast(self.precision, device):
                yield
        finally:
            for role in scoring:
                role.micro_tokens = None

    def _check(self, batch: Any) -> None:
        name = f"{type(self.algorithm).__name__}.rollout"
        if not isinstance(batch, Batch):
            raise PluginError(f"{name} returned {type(batch).__name__}, not a Batch.", "Return Batch(answers=…, …).")
        if not any(isinstance(field, Answers) for field in batch.fields.values()):
            raise PluginError(f"{name} returned a Batch without answers.", "Put what was generated into it.")

    # -- scores --------------------------------------------------------------------------------------------------

    def _score(self, answers: Answers, unfinished: bool = False) -> Tensor:
        """What a rollout gets as `score`. unfinished: these are beginnings of answers, which no number counts."""
        if "reward" not in self.rewards and "judge" in self.models:
            # It learns from its judge; a reward would only have been looked at.
            self._seen.rewarded = False
            self._seen.add(answers, self.writer.texts(answers), [math.nan] * len(answers), {})
            return torch.full((len(answers),), math.nan, device=answers[0].completion.device)
        if "reward" not in self.rewards:
            raise ZooError(
                "This algorithm asks for a reward, and none was named.", "Add --reward, see docs/rewards.md."
            )
        with self.timing.measured(REWARD):
            values, parts, failures = self._scored("reward", answers, self.records)
        self._seen.fail(len(answers), failures)
        if not unfinished:
            self._seen.add(answers, self.writer.texts(answers), values, parts)
        return torch.tensor(values, dtype=torch.float32, device=answers[0].completion.device)

    def _scored(
        self, which: str, answers: Answers, records: Mapping[int, Any]
    ) -> tuple[list[float], dict[str, list[float]], dict[str, int]]:
        """Rewards (NaN where missing), their parts, and how many are missing by reason; shared out and gathered."""
        rank, processes = my_place()
        start, stop = (len(answers) * (rank + k) // processes for k in (0, 1))
        mine = answers[start:stop]
        found, error = Scored([], {}, []), None
        try:
            found = self.rewards[which].detailed(
                self.writer.texts(mine), [records[answer.row] for answer in mine], [answer.ended for answer in mine],
                [len(answer.completion) for answer in mine],
            )  # fmt: skip
        except ZooError as raised:
            # The other processes, whose answers may be fine, wait for this one.
            error = raised
        shares = gathered((found.values, found.parts, found.failures, error))
        if error := next((share[3] for share in shares if share[3]), None):
            raise error
        values = [_number(value) for share in shares for value in share[0]]
        parts = {name: [_number(v) for share in shares for v in share[1][name]] for name in found.parts}
        failures: dict[str, int] = {}
        for share in shares:
            for reason, count in share[2].items():
                failures[reason] = failures.get(reason, 0) + count
        return values, parts, failures

    # -- what is seen --------------------------------------------------------------------------------------------

    def _gap(self) -> dict[str, float]:
        """How far the log-probs that the engine drew with are from those that the trainer computes: mean |Δ| a token.

        Padding, row layout and the keys kept in lower precision make a difference of rounding; more is a mistake.
        """
        if self.writer.gaps:
            return {"rollout/engine_gap": _mean(self.writer.gaps)}
        some = Answers([a for a in self._seen.answers if a.behaviour is not None][:COMPARED])
        if not some or not hasattr(self.models.built("policy"), "logps"):
            return {}
        computed = self.models.built("policy").logps(some)
        gap = (computed.per_token - some.behaviour).abs()[computed.mask]
        return {"rollout/engine_gap": float(gap.mean())}

    def _watch(self, step: int) -> None:
        """Alarms, samples and listeners, in the first process."""
        seen = self._seen
        if my_place()[0] or not seen.answers:
            return
        for reason, count in seen.failures.items():
            self.say(f"Step {step + 1}: {count} of {seen.asked} rewards are missing: {reason}")
        rows, cut = [answer.row for answer in seen.answers], [answer.cut for answer in seen.answers]
        # Where a judge is asked, the reward is only looked at: nobody waits for it to teach anything.
        judged = "judge" in self.models
        for sentence in self.alarms.look([] if judged else seen.values, None if judged else rows, cut):
            self.say(f"Step {step + 1}: {sentence}")
        self._keep("rollout", f"step {step}", seen.samples(self.records, SHOWN))
        self.tell("rollout_end", step=step, metrics=self.metrics)

    def _count_unrewarded(self, step: int) -> None:
        """Say where a whole rollout got no reward, so that nothing is learned from it; end the run where it goes on.

        The same on every process.
        """
        values = self._seen.values
        if "judge" in self.models or not self._seen.rewarded or not values:
            return
        if not all(map(math.isnan, values)):
            self.unrewarded_in_a_row = 0
            return
        self.unrewarded, self.unrewarded_in_a_row = self.unrewarded + 1, self.unrewarded_in_a_row + 1
        self.say(f"Step {step + 1}: none of the {len(values)} answers got a reward; nothing is learned from them.")
        if self.unrewarded_in_a_row < IN_A_ROW:
            return
        reasons = "; ".join(reason for reason, _ in self._seen.failures.most_common(3))
        raise TrainingStopped(
            f"In {IN_A_ROW} rollouts one after the other no answer got a reward, the last time before step "
            f"{step + 1}: {reasons or 'no reason given'}.",
            "Give the reward the data that it reads, or take another one; `zoo eval MODEL --reward …` tries it alone.",
        )

    def _keep(self, name: str, when: str, samples: list[dict[str, Any]]) -> None:
        if self.run is not None:
            score = mean_score(name, [s["score"] for s in samples if s["score"] is not None], samples=samples)
            report.write_samples(self.run, when, score)

    # -- validation ----------------------------------------------------------------------------------------------

    def validate(self, step: int) -> dict[str, float]:
        """Rewards, length and distance from the reference of answers to held-out prompts, as `val/…`."""
        state = self.algorithm.state()
        records = {record["row"]: record["record"] for record in self.held_out}
        with self._rolling(VALIDATION):
            answers = self.models.built("policy").generate(self.held_out, 1)
            found = {which: self._scored(which, answers, records)[0] for which in self.rewards}
            means = {f"val/{which}": _mean(values) for which, values in found.items()}
            cases: dict[str, list[float | None]] = {w: [_or_none(v) for v in values] for w, values in found.items()}
            cases["length"], cases["cut"] = answers.lengths.tolist(), answers.cut.float().tolist()
            means["val/length"] = float(answers.lengths.float().mean())
            means["val/cut"] = float(answers.cut.float().mean())
            if "reference" in self.models:
                policy, reference = (self.models.built(role).logps(answers).sum() for role in ("policy", "reference"))
                means["val/kl"] = float((policy - reference).mean())
                cases["kl"] = (policy - reference).tolist()
            if "judge" in self.models:
                grades = self.models.built("judge").rate(self.held_out, self.writer.texts(answers)).tolist()
                means["val/grade"], cases["grade"] = _mean(grades), [_or_none(grade) for grade in grades]
        if self.run is not None and not my_place()[0]:
            report.write_cases(self.run, step, cases)
        seen = Seen()
        if found:
            seen.add(answers, self.writer.texts(answers), next(iter(found.values())), {})
            if not my_place()[0]:
                self._keep("held-out", f"step {step}", seen.samples(records, SHOWN))
        self.algorithm.load_state(state)
        return means


class Seen:
    """What was scored in a rollout."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.texts: list[str] = []
        self.values: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self.failures: Counter[str] = Counter()
        """Why rewards are missing, those of beginnings of answers too, and how many each."""
        self.asked = 0
        self.rewarded = True
        """Whether there is a reward at all."""

    def add(
        self, answers: Answers, texts: Sequence[str], values: Sequence[float], parts: Mapping[str, Sequence[float]]
    ) -> None:
        self.answers += answers
        self.texts += texts
        self.values += values
        for name, column in parts.items():
            self.parts.setdefault(name, []).extend(column)

    def fail(self, asked: int, failures: Mapping[str, int]) -> None:
        """So many rewards were asked for, and some are missing."""
        self.asked += asked
        self.failures.update(failures)

    def metrics(self) -> dict[str, float]:
        if not self.answers:
            return {}
        known = [value for value in self.values if not math.isnan(value)]
        mean = _mean(known)
        lengths = [len(answer.completion) for answer in self.answers]
        found = {
            "rollout/reward": mean,
            "rollout/reward_std": math.sqrt(_mean([(value - mean) ** 2 for value in known])),
            "rollout/missing": 1 - len(known) / len(self.values),
            "rollout/length": _mean(lengths),
            "rollout/length_max": float(max(lengths)),
            "rollout/cut": _mean([float(answer.cut) for answer in self.answers]),
        }
        if not self.rewarded:
            return {name: value for name, value in found.items() if name.startswith(("rollout/length", "rollout/cut"))}
        if len(self.parts) > 1:
            found |= {f"rollout/reward/{name}": _mean(column) for name, column in self.parts.items()}
        groups: dict[int | None, set[float]] = {}
        for answer, value in zip(self.answers, self.values, strict=True):
            groups.setdefault(answer.row, set()).update([] if math.isnan(value) else [value])
        if len(groups) < len(self.answers):
            found["rollout/flat_groups"] = _mean([float(len(values) < 2) for values in groups.values()])
            found |= self._right()
        return found

    def _right(self) -> dict[str, float]:
        """Share of the prompts by how many of their answers are right, where every reward is 0 or 1."""
        if not {value for value in self.values if not math.isnan(value)} <= {0.0, 1.0}:
            return {}
        answers = Counter(answer.row for answer in self.answers)
        right = Counter(answer.row for answer, value in zip(self.answers, self.values, strict=True) if value == 1.0)
        counts = Counter(right[row] for row in answers)
        return {f"rollout/groups/{k}": counts[k] / len(answers) for k in range(max(answers.values()) + 1)}

    def samples(self, records: Mapping[int, Any], count: int) -> list[dict[str, Any]]:
        """The first answers to `count` prompts, to read."""
        first = {answer.row: i for i, answer in reversed(list(enumerate(self.answers)))}
        return [
            {
                "prompt": records[row]["prompt"],  # type: ignore[index]
                "answer": self.texts[i],
                "score": None if math.isnan(self.values[i]) else self.values[i],
                "length": len(self.answers[i].completion),
                "cut": self.answers[i].cut,
            }
            for row, i in sorted(first.items(), key=lambda item: item[1])[:count]
        ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
