"""A judge: which of two answers is better, and how good an answer is, as probabilities (arXiv:2309.00267, 2212.08073).

It asks a language model (a *respondent*: a local model or an endpoint) and reads the probabilities of the offered
choices. Each pair is judged in both orders. With a chain of thought the respondent first reasons, decoding greedily,
and then chooses with its reasoning in the context.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.judges.cache import JudgementCache
from zoo.judges.constitution import Principle
from zoo.judges.verdicts import Tally, Verdict, expected_grade
from zoo.judges.wording import Question, Wording, as_text, load_wording
from zoo.processes import agreed, gathered, leads, my_place

Clamp = tuple[float, float]


@dataclass(frozen=True)
class Response:
    """A respondent's answer to a question: log-probabilities of the choices (not normalised), or why there are none.

    thoughts: its reasoning, if it was asked to reason.
    """

    logps: tuple[float, ...] = ()
    thoughts: str | None = None
    problem: str = ""


class Respondent(Protocol):
    """A model that answers questions. name: for display, without secrets."""

    name: str

    def fingerprint(self) -> str:
        """sha256 of everything that an answer depends on, except the question."""

    def respond(self, questions: Sequence[Question], thinking: bool) -> Iterator[tuple[int, Response]]:
        """(index of the question, response) in any order, each as soon as it arrives.

        Raises ZooError if no further question can be answered.
        """


class Judge:
    """Compares pairs of answers and grades single answers.

    device: of the tensors that it returns; cache: earlier responses, None to ask always; progress: called with
    (questions answered, all questions). `statistics` counts the judgements.
    """

    def __init__(
        self,
        respondent: Respondent,
        wording: Wording | None = None,
        *,
        device: torch.device | str = "cpu",
        cache: JudgementCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.respondent, self.wording = respondent, wording or load_wording()
        self.device, self.cache, self.progress = torch.device(device), cache, progress
        self.statistics = Tally()
        self.seconds = 0.0
        """Wall-clock seconds spent on asking."""

    @property
    def name(self) -> str:
        return self.respondent.name

    def prefer(
        self,
        prompts: Sequence[Any],
        a: Sequence[str],
        b: Sequence[str],
        *,
        principle: Any = None,
        chain_of_thought: bool = False,
        clamp: Clamp | None = None,
    ) -> Tensor:
        """The probability that a is better than b, float32 [B], averaged over both orders; NaN if there is none.

        prompts: encoded records, message lists or strings; principle: by which the answers are compared (a `Principle`,
        the question as text, or one of these for each pair); None asks the general question; clamp: (least, greatest)
        label; arXiv:2212.08073 uses (0.4, 0.6) for chains of thought.
        """
        verdicts = self.compare(
            prompts, a, b, principle=principle, chain_of_thought=chain_of_thought, clamp=clamp
        )  # fmt: skip
        return torch.tensor([verdict.p for verdict in verdicts], dtype=torch.float32, device=self.device)

    def rate(self, prompts: Sequence[Any], answers: Sequence[str], *, chain_of_thought: bool = False) -> Tensor:
        """The expected grade of each answer from 1 to 10, float32 [B]; NaN if there is none."""
        task = self.wording.tasks["rating"]
        questions = [
            task.ask(prompt=as_text(prompt), answer=as_text(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        grades = []
        for response in self._ask(questions, chain_of_thought):
            grade = math.nan if response.problem else expected_grade(response.logps)
            if response.problem:
                self.statistics.unusable[response.problem] += 1
            else:
                self.statistics.add_grade(grade)
            grades.append(grade)
        return torch.tensor(grades, dtype=torch.float32, device=self.device)

    def compare(
        self,
        prompts: Sequence[Any],
        a: Sequence[Any],
        b: Sequence[Any],
        *,
        principle: Any = None,
        chain_of_thought: bool = False,
        clamp: Clamp | None = None,
    ) -> list[Verdict]:
        """Like `prefer`, but with the judgement in each order."""
        if clamp is not None and not 0 <= clamp[0] <= 0.5 <= clamp[1] <= 1:
            raise ZooError(f"A label cannot be clamped to {clamp}.", "Give two numbers around a half, such as 0.4,0.6.")
        principles = _each(principle, len(prompts))
        pairs = [
            (as_text(prompt), as_text(answer), as_text(other), principle)
            for prompt, answer, other, principle in zip(prompts, a, b, principles, strict=True)
        ]
        questions = [self._question(prompt, answer, other, rule) for prompt, answer, other, rule in pairs]
        questions += [self._question(prompt, other, answer, rule) for prompt, answer, other, rule in pairs]
        responses = self._ask(questions, chain_of_thought)
        verdicts = [
            _verdict(first, second, clamp)
            for first, second in zip(responses[: len(pairs)], responses[len(pairs) :], strict=True)
        ]
        for verdict in verdicts:
            self.statistics.add(verdict)
        return verdicts

    def _question(self, prompt: str, first: str, second: str, principle: str | None) -> Question:
        if principle is None:
            return self.wording.tasks["preference"].ask(prompt=prompt, first=first, second=second)
        return self.wording.tasks["principle"].ask(prompt=prompt, first=first, second=second, principle=principle)

    def _ask(self, questions: Sequence[Question], thinking: bool) -> list[Response]:
        """The responses; each different question is asked once, and the processes of a run divide the questions."""
        keys = [_key(question, thinking) for question in questions]
        wanted = dict(zip(keys, questions, strict=True))
        responses = (
            {}
            if self.cache is None
            else {key: Response(**response) for key, response in agreed(self.cache.get(list(wanted))).items()}
        )
        missing = {key: question for key, question in wanted.items() if key not in responses}
        rank, processes = my_place()
        # Processes may have cached different responses, but must agree on the questions: all that any process lacks.
        missing = {key: wanted[key] for share in gathered(list(missing)) for key in share}
        clock = time.perf_counter()
        # Nobody is asked elsewhere for a tensor group more than once.
        asks = leads() or not getattr(self.respondent, "elsewhere", False)
        mine, error = self._respond(dict(list(missing.items())[rank::processes]) if asks else {}, thinking)
        self.seconds += time.perf_counter() - clock
        shares = gathered((mine, error))
        error = next((failed for _, failed in shares if failed), None)
        for share, _ in shares:
            responses |= share
        if error is not None:
            raise ZooError(*error)
        return [responses[key] for key in keys]

    def _respond(
        self, questions: Mapping[bytes, Question], thinking: bool
    ) -> tuple[dict[bytes, Response], tuple[str, str] | None]:
        """The responses, each cached as it arrives, and the error that ended the work (message, hint)."""
        responses: dict[bytes, Response] = {}
        keys = list(questions)
        try:
            for number, response in self.respondent.respond(list(questions.values()), thinking):
                responses[keys[number]] = response
                if self.cache is not None and not response.problem:
                    self.cache.put(keys[number], vars(response))
                if self.progress is not None:
                    self.progress(len(responses), len(keys))
        except ZooError as error:
            return responses, (error.message, error.hint)
        return responses, None


def _each(principle: Any, count: int) -> list[str | None]:
    """The question of each pair's principle."""
    several = isinstance(principle, Sequence) and not isinstance(principle, str)
    principles = list(principle) if several else [principle] * count
    return [principle.comparison if isinstance(principle, Principle) else principle for principle in principles]


def _verdict(first: Response, second: Response, clamp: Clamp | None) -> Verdict:
    if problem := first.problem or second.problem:
        return Verdict(math.nan, problem=problem)
    thoughts = tuple(response.thoughts for response in (first, second) if response.thoughts is not None)
    return Verdict.of(first.logps, second.logps, clamp, thoughts)


def _key(question: Question, thinking: bool) -> bytes:
    parts = [question.text(thinking), question.task.decide, question.task.lead, question.task.choices, thinking]
    return hashlib.sha256(json.dumps(parts).encode()).digest()
