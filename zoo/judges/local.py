"""A language model in this process as a judge: reads the log-probabilities of its choices from the next tokens.

A choice may have several spellings ("1" and " 1"), and a spelling several tokens ("10" in many tokenizers), so the
probabilities of whole spellings are summed. If one spelling begins another ("1" and "10"), the shorter one counts
only where the longer one does not follow.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.data.encoding.template import ChatTemplate
from zoo.data.row_errors import RowError
from zoo.judges.judge import CUT, Response
from zoo.judges.wording import Question
from zoo.libraries.adapters import frozen_parameters
from zoo.libraries.architecture import evaluating, longest_text
from zoo.libraries.stored import initial_values
from zoo.models.precision import autocast, rounding_tolerance
from zoo.models.reference_cache import architecture, fingerprint
from zoo.models.scoring import balance_of, choose_layout, score_answers
from zoo.rollout.engine import InProcessEngine
from zoo.rollout.sampling import Sampling
from zoo.values.types import Answer

Ways = list[tuple[int, tuple[int, ...]]]
"""(index of the choice, token ids of one spelling)."""


class LocalModel:
    """A causal language model that is asked with its own chat template.

    load: gives the model, on its device, when it is first needed; borrow: a context in which that model is the judge
    (adapters off); layout: how rows are laid out, None to choose by a self-test; micro_tokens: tokens in one forward
    pass; longest_thought: most tokens in a chain of thought.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Any],
        template: ChatTemplate,
        precision: str = "32-true",
        *,
        borrow: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        layout: str | None = None,
        micro_tokens: int = 4096,
        longest_thought: int = 256,
    ):
        self.name, self._load, self.template, self.precision = name, load, template, precision
        self.borrow, self.layout, self.micro_tokens, self.longest_thought = (
            borrow,
            layout,
            micro_tokens,
            longest_thought,
        )
        self._model: Any = None

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def fingerprint(self) -> str:
        """A hash of the weights, the template, the precision, and the longest thought."""
        alone = self.borrow is contextlib.nullcontext
        own = self.model.named_parameters() if alone else frozen_parameters(self.model)
        template = self.template.identity
        weights = initial_values(self.model, own)
        return fingerprint(weights, self.precision, architecture(self.model), template, str(self.longest_thought))

    def respond(self, questions: Sequence[Question], thinking: bool) -> Iterator[tuple[int, Response]]:
        """See `Respondent`. A question that is too long for the model or holds control tokens gives a `problem`."""
        problems: dict[int, Response] = {}
        asked: dict[int, list[int]] = {}
        reserve = self.longest_thought if thinking else 0
        for number, question in enumerate(questions):
            try:
                asked[number] = self._ids(question.text(thinking), reserve)
            except RowError as error:
                problems[number] = Response(problem=_reason(error))
        yield from problems.items()
        written = self._written(asked, questions) if thinking else {}
        thoughts = {number: text for number, (text, _) in written.items()}
        answers: dict[int, tuple[list[Answer], Ways]] = {}
        for number, ids in asked.items():
            question = replace(questions[number], thoughts=thoughts.get(number))
            if question.free:
                yield number, Response((), thoughts[number], CUT if written[number][1] else "")
                continue
            ways = self._ways(question.task.choices)
            prompt = ids + self.template.tokens.continuation(question.opening)
            answers[number] = ([Answer.of(prompt, way) for _, way in ways], ways)
        for number, logps in self._scored(answers):
            yield number, Response(tuple(logps), thoughts.get(number))

    def _ids(self, text: str, reserve: int) -> list[int]:
        """A question as ids, with the generation prompt. Raises RowError."""
        raw = self.template.renderer is None
        written = self.template.prompt_text(f"{text}\n" if raw else [{"role": "user", "content": text}])
        ids = self.template.tokens.ids([written])[0]
        limit = longest_text(self.model)
        # Room for the beginning of the answer and for the choice.
        if limit is not None and len(ids) + reserve + 64 > limit:
            raise RowError("E_LONG", "prompt", "longer than the judge's context")
        return ids

    def _written(self, asked: dict[int, list[int]], questions: Sequence[Question]) -> dict[int, tuple[str, bool]]:
        """What the model writes about each question, as text, and whether it was cut.

        It depends on the question alone, and not on those that are asked with it (but for the rounding of the logits):
        each has a seed of its own.
        """
        tokenizer = self.template.tokenizer
        engine = InProcessEngine(
            self.model, eos_ids=self.template.eos_ids, pad_id=tokenizer.pad_token_id, tokenizer=tokenizer
        )
        with self.borrow(), autocast(self.precision, self._device):
            temperature = max((questions[number].temperature for number in asked), default=0.0)
            sampling = Sampling(max_new_tokens=self.longest_thought, temperature=temperature)
            drawn = [int.from_bytes(questions[number].key(True)[:8], "big") >> 1 for number in asked]
            answers = engine.generate([torch.tensor(ids) for ids in asked.values()], 1, sampling, drawn=drawn)
        texts = [tokenizer.decode(answer.completion, skip_special_tokens=True).strip() for answer in answers]
        return {number: (text, answer.cut) for number, text, answer in zip(asked, texts, answers, strict=True)}

    def _ways(self, choices: Sequence[str]) -> Ways:
        """The spellings of each choice, with and without a blank before it; equal spellings once."""
        tokens = self.template.tokens
        spellings = {
            tuple(tokens.continuation(text)): number
            for number, choice in enumerate(choices)
            for text in (choice, f" {choice}")
        }
        return [(number, way) for way, number in spellings.items()]

    @torch.no_grad()
    def _scored(self, questions: dict[int, tuple[list[Answer], Ways]]) -> Iterator[tuple[int, list[float]]]:
        """The log-probabilities of each question's choices, as many questions at a time as fit into a forward pass."""
        device = self._device
        for part in self._parts(questions):
            answers = [answer.to(device) for number in part for answer in questions[number][0]]
            with self.borrow(), evaluating(self.model):
                layout = self._chosen_layout(answers)
                with autocast(self.precision, device):
                    scored = score_answers(self.model, answers, layout, balance=balance_of(self.model))
            totals = iter(scored.sum().tolist())
            for number in part:
                ways = questions[number][1]
                yield number, choice_logps([(choice, way, next(totals)) for choice, way in ways])

    def _parts(self, questions: dict[int, tuple[list[Answer], Ways]]) -> Iterator[list[int]]:
        """Groups of questions of similar length."""
        part: list[int] = []
        tokens = 0
        for number in sorted(questions, key=lambda number: len(questions[number][0][0].prompt)):
            answers = questions[number][0]
            prompts = len(answers) if self.layout in ("padded", "packed") else 1
            cost = prompts * len(answers[0].prompt) + sum(len(answer.completion) for answer in answers)
            if part and tokens + cost > self.micro_tokens:
                yield part
                part, tokens = [], 0
            part.append(number)
            tokens += cost
        if part:
            yield part

    def _chosen_layout(self, answers: Sequence[Answer]) -> str:
        if self.layout is None and len({p.dtype for p in self.model.parameters()}) > 1:
            # Rounded weights run only under autocast, where the self-test would see too little.
            self.layout = "padded"
        if self.layout is None:
            self.layout, _ = choose_layout(self.model, answers[:2], "auto", rounding_tolerance(self.precision))
        return self.layout

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def choice_logps(ways: Sequence[tuple[int, tuple[int, ...], float]]) -> list[float]:
    """The log-probability of each choice, from (choice, ids, log-probability) of every spelling.

    Probabilities are kept relative to the largest until the end, so that unlikely choices do not underflow.
    """
    top = max(logp for *_, logp in ways)
    p = {way: math.exp(logp - top) for _, way, logp in ways}
    sums = [0.0] * (1 + max(choice for choice, *_ in ways))
    for choice, way, _ in ways:
        longer = [other for other in p if len(other) > len(way) and other[: len(way)] == way]
        nearest = [
            extension
            for extension in longer
            if not any(extension[: len(other)] == other for other in longer if other != extension)
        ]
        sums[choice] += max(0.0, p[way] - sum(p[other] for other in nearest))
    return [math.log(total) + top if total > 0 else -math.inf for total in sums]


def _reason(error: RowError) -> str:
    return "control tokens in a text" if error.code == "E_SPECIAL_TOKEN" else error.message
