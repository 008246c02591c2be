"""A judge: which of two answers is better, and how good an answer is, as probabilities (arXiv:2309.00267, 2212.08073).

It asks a language model (a *respondent*: a local model or an endpoint) and reads the probabilities of the offered
choices. Each pair is judged in both orders. With a chain of thought the respondent first reasons, decoding greedily,
and then chooses with its reasoning in the context.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.judges.asking import Asking
from zoo.judges.cache import JudgementCache
from zoo.judges.constitution import Principle
from zoo.judges.pattern import TooSlow
from zoo.judges.verdicts import Tally, Verdict, distribution, expected_grade
from zoo.judges.wording import COUNTS, Question, Wording, as_text, load_wording
from zoo.processes import agreed, gathered, leads, my_place

Clamp = tuple[float, float]
CUT = "the judge's text was cut before its end"
"""What was cut may be a quotation of the answer, which could speak for itself."""


@dataclass(frozen=True)
class Response:
    """A respondent's answer to a question: log-probabilities of the choices (not normalised), or why there are none.

    thoughts: its reasoning, if it was asked to reason; of a free response all that it wrote.
    """

    logps: tuple[float, ...] = ()
    thoughts: str | None = None
    problem: str = ""


class Mark(NamedTuple):
    """What a judge thinks of an answer. value: a grade or a probability, NaN if there is none; problem: why not."""

    value: float
    problem: str = ""

    @staticmethod
    def of(votes: Sequence[Mark]) -> Mark:
        """The mean of those votes that could be read."""
        values = [vote.value for vote in votes if not vote.problem]
        return Mark(sum(values) / len(values)) if values else votes[0]


class Respondent(Protocol):
    """A model that answers questions. name: for display, without secrets."""

    name: str

    def fingerprint(self) -> str:
        """sha256 of everything that an answer depends on, except the question."""

    def respond(self, questions: Sequence[Question], thinking: bool) -> Iterator[tuple[int, Response]]:
        """(index of the question, response) in any order, each as soon as it arrives.

        The questions of a call have one temperature, and all are free or none is. Raises ZooError if no further
        question can be answered.
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

    @property
    def settings(self) -> dict[str, Any]:
        """What a label of this judge tells about where it is from."""
        return {"judge": self.name, "wording": self.wording.id}

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
        parts = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
        marks = self.mark("rating", parts, Asking(chain_of_thought))
        return torch.tensor([mark.value for mark in marks], dtype=torch.float32, device=self.device)

    def mark(self, task: str, parts: Sequence[Mapping[str, Any]], asking: Asking) -> list[Mark]:
        """One mark for each answer: its expected grade in the task "rating", in others the probability of a yes.

        parts: what the question of each holds, such as prompt and answer.
        """
        texts = self.wording.tasks[task]
        questions = [texts.ask(**{name: as_text(value) for name, value in part.items()}) for part in parts]
        temperature, free = (asking.temperature if asking.votes > 1 else 0.0), bool(asking.pattern)
        asked = [
            replace(question, temperature=temperature, sample=k, free=free)
            for question in questions
            for k in range(asking.votes)
        ]
        responses = iter(self._ask(asked, asking.thinking))
        marks = [Mark.of([_mark(next(responses), task, texts.choices, asking) for _ in range(asking.votes)])
                 for _ in questions]  # fmt: skip
        for mark in marks:
            if mark.problem:
                self.statistics.unusable[mark.problem] += 1
            elif task in COUNTS:
                self.statistics.add_grade(mark.value)
        return marks

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
        keys = [question.key(thinking) for question in questions]
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


def _mark(response: Response, task: str, choices: Sequence[str], asking: Asking) -> Mark:
    """The mark that one response gives."""
    if response.problem:
        return Mark(math.nan, response.problem)
    if not asking.pattern:
        return Mark(expected_grade(response.logps) if task in COUNTS else distribution(response.logps)[0])
    text = response.thoughts or ""
    try:
        value = asking.grade(text) if task in COUNTS else asking.yes(text, choices)
    except TooSlow as error:
        return Mark(math.nan, str(error))
    return Mark(math.nan, "no verdict in the judge's text") if value is None else Mark(value)
