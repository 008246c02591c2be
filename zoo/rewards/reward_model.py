"""A trained reward model as a reward: renders texts with its own chat template and scores them with its head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.data.encoding.stages import render_steps
from zoo.data.encoding.template import ends_trained, extras_of
from zoo.data.row_errors import RowError
from zoo.libraries.adapters import merged
from zoo.libraries.architecture import longest_text
from zoo.libraries.quantising import QUANTISED
from zoo.models.loading import load_scorer, load_template
from zoo.models.names import Source
from zoo.models.precision import autocast, round_frozen
from zoo.models.scalar import score_many, unit_of
from zoo.rewards.missing import Missing
from zoo.values.types import Answer


class RewardModel:
    """Scores answers with a frozen model, without gradients; its head stays float32.

    base_dtype: of its matrices, as `--base-dtype` says it; steps: how a process reward model combines the probabilities
    of the steps into one number; its steps are the lines of an answer.
    """

    def __init__(
        self, source: Source, device: torch.device, precision: str = "32-true", steps: str = "min",
        base_dtype: str = "auto",
    ):  # fmt: skip
        model = load_scorer(source, torch.float32, in_files=True)
        if base_dtype in QUANTISED:
            # Some kinds of adapters read whole matrices.
            model = merged(model)
        model.requires_grad_(False).eval()
        self.model = round_frozen(model, precision, base_dtype).to(device)
        self.template = load_template(source)
        self.device, self.precision, self.steps = device, precision, steps
        self.of_steps = unit_of(self.model) == "step"
        self.longest = longest_text(self.model) or math.inf

    def __call__(
        self, completions: Sequence[str], records: Sequence[Mapping[str, Any]], ended: Sequence[bool] | None = None
    ) -> list[float | None | Missing]:
        """One reward per answer; Missing for an answer that has no steps, is too long, or contains control tokens."""
        rewards: list[float | None | Missing] = [Missing("the answer has no step, or a control token")] * len(
            completions
        )
        usable: dict[int, tuple[Answer, list[int]]] = {}
        for i, (text, record) in enumerate(zip(completions, records, strict=True)):
            answer, marks = self._rendered(text, record) or (None, [])
            if answer is not None and ended is not None and not ended[i]:
                answer = self._unended(answer)
            if answer is not None and len(answer) > self.longest:
                rewards[i] = Missing(f"longer than the {self.longest} tokens that the model can take")
            elif answer is not None:
                usable[i] = (answer, marks)
        answers, ends = [answer for answer, _ in usable.values()], [marks for _, marks in usable.values()]
        with autocast(self.precision, self.device):
            values = score_many(self.model, answers, at=ends if self.of_steps else None)
        for i, value in zip(usable, values, strict=True):
            rewards[i] = self._of_solution(value) if self.of_steps else value
        return rewards

    def _rendered(self, text: str, record: Mapping[str, Any]) -> tuple[Answer, list[int]] | None:
        """The answer as tokens, and the last token of each step."""
        try:
            if not self.of_steps:
                rendered = self.template.render(record["prompt"], text, **extras_of(record))
            else:
                steps = [line for line in text.splitlines() if line.strip()]
                if not steps:
                    return None
                rendered = render_steps({**record, "steps": steps}, self.template)
            return self.template.tokenize([rendered])[0]
        except RowError:
            return None

    def _unended(self, answer: Answer) -> Answer:
        """The answer without its end-of-turn token, which an answer that was cut off does not have."""
        if len(answer.completion) < 2 or not ends_trained(answer, self.template.eos_ids):
            return answer
        return replace(answer, completion=answer.completion[:-1], mask=answer.mask[:-1], ended=False)

    def _of_solution(self, scores: list[float]) -> float:
        """The product or the minimum of the steps' probabilities σ(score)."""
        log_p = [-math.log1p(math.exp(-abs(score))) + min(score, 0.0) for score in scores]
        return math.exp(min(log_p) if self.steps == "min" else sum(log_p))
